"""What all operators share: refused shapes, settings that stay in their call, pickling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from deepinv.physics import LinearPhysics, ZeroNoise
from torch import Tensor

from gprior.checks import InputError, InputTypeError, integer

__all__ = ["Operator", "checked_img_size"]

_PHYSICS_OPTIONS = ("implicit_backward_solver", "max_iter", "sensor_model", "solver", "tol")
_SOLVER_SETTINGS = ("solver", "max_iter", "tol")


class Operator(LinearPhysics):  # type: ignore[misc]  # deepinv is untyped
    """Base of gprior's operators: a deepinv ``LinearPhysics`` of one fixed image size.

    A subclass registers its tensors as buffers, defines ``A`` and ``A_adjoint`` (both
    begin with :meth:`_checked` and take ``**kwargs``), and ends its constructor with
    ``self.to(device)``. An operator computes in the dtype of its input.

    Parameters
    ----------
    img_size : sequence of int
        Shape (C, H, W) of one image.
    measurement_shape : sequence of int
        Shape of one measurement.
    noise_model : deepinv.physics.NoiseModel, optional
        Noise added by calling the operator; default none.
    device : torch.device or str
        Where the buffers live.
    **kwargs
        Options of ``deepinv.physics.LinearPhysics``: ``implicit_backward_solver``,
        ``max_iter``, ``sensor_model``, ``solver``, ``tol``.

    Attributes
    ----------
    img_size : tuple of int
        Shape (C, H, W) of one image.
    measurement_shape : tuple of int
        Shape of one measurement, without the batch.
    measurement_is_image : bool
        Whether a measurement looks like the image, so that perceptual distances apply.
    """

    measurement_is_image: ClassVar[bool] = False
    measurement_shape: tuple[int, ...]

    def __init__(
        self,
        img_size: Sequence[int],
        measurement_shape: Sequence[int],
        *,
        noise_model: Callable[..., Tensor] | None = None,
        device: torch.device | str = "cpu",
        **kwargs: Any,
    ) -> None:
        if unknown := sorted(set(kwargs) - set(_PHYSICS_OPTIONS)):
            raise InputTypeError(
                f"{type(self).__name__}() got unknown option(s) {', '.join(unknown)}; beside its "
                f"own arguments it takes deepinv's {', '.join(_PHYSICS_OPTIONS)}"
            )
        if noise_model is not None and not callable(noise_model):
            raise InputTypeError(
                f"noise_model must be a deepinv noise model, got {noise_model!r}; "
                "for Gaussian noise pass deepinv.physics.GaussianNoise(sigma)"
            )
        super().__init__(
            A=_identity,
            img_size=tuple(img_size),
            noise_model=ZeroNoise() if noise_model is None else noise_model,
            device=device,
            **{"sensor_model": _identity, **kwargs},
        )
        self.measurement_shape = tuple(measurement_shape)

    def noise(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Add noise to clean measurements ``x``; a level given here is for this call only."""
        noisy: Tensor = LinearPhysics.noise(_copy(self), x, **kwargs)
        return noisy

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:  # noqa: N802
        """Return the pseudo-inverse of ``y`` by deepinv's least-squares solvers.

        Parameters
        ----------
        y : Tensor
            Measurements, shape (B, ...).
        **kwargs
            ``solver`` ("CG", "lsqr", "BiCGStab" or "minres"), ``max_iter``, ``tol`` and
            ``verbose``, for this call only; by default the operator's settings hold. Other
            options are ignored, as everywhere in deepinv.

        Returns
        -------
        Tensor
            Images, shape (B, C, H, W).
        """
        y = self._checked("y", y, self.measurement_shape)
        x: Tensor = LinearPhysics.A_dagger(_copy(self), y, **_call_settings(kwargs))
        return x

    def prox_l2(
        self, z: Tensor | float | None, y: Tensor, gamma: float | Tensor, **kwargs: Any
    ) -> Tensor:
        """Return the minimiser of gamma/2 ||Ax - y||^2 + 1/2 ||x - z||^2.

        Parameters
        ----------
        z : Tensor, float or None
            Centre, shape (B, C, H, W); None is zero.
        y : Tensor
            Measurements, shape (B, ...).
        gamma : float or Tensor
            Weight of the data.
        **kwargs
            As for :meth:`A_dagger`.

        Returns
        -------
        Tensor
            Images, shape (B, C, H, W).
        """
        y = self._checked("y", y, self.measurement_shape)
        x: Tensor = LinearPhysics.prox_l2(_copy(self), z, y, gamma, **_call_settings(kwargs))
        return x

    def _checked(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return ``value``, refused unless it is a tensor of shape (B, *shape)."""
        if not isinstance(value, Tensor):
            raise InputTypeError(
                f"{type(self).__name__}: {name} must be a torch.Tensor, got {type(value).__name__}"
            )
        if value.ndim != len(shape) + 1 or tuple(value.shape[1:]) != shape:
            expected = ", ".join(map(str, shape))
            remedy = f"; add the batch: {name}[None]" if tuple(value.shape) == shape else ""
            raise InputError(
                f"{type(self).__name__}: {name} must have shape (B, {expected}), "
                f"got {tuple(value.shape)}{remedy}"
            )
        return value

    def __getstate__(self) -> dict[str, Any]:
        # deepinv's NoiseModel holds a lambda for the identity, which pickle refuses.
        for module in self.modules():
            held = getattr(module, "noise_model", None)
            if getattr(held, "__qualname__", "") == "NoiseModel.__init__.<locals>.<lambda>":
                module.noise_model = _identity
        return self.__dict__.copy()


def _identity(x: Any, **kwargs: Any) -> Any:
    return x


def _call_settings(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: kwargs[name] for name in (*_SOLVER_SETTINGS, "verbose") if name in kwargs}


def _copy(module: torch.nn.Module) -> Any:
    """Return a copy with the same tensors, to be handed to deepinv.

    deepinv stores the options of a call in the physics: solver settings, and the noise level in
    its noise model. With a copy the operator stays as it was, also for other threads that use it
    at the same time.
    """
    copy = module._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
    copy._parameters = dict(module._parameters)
    for name, child in module._modules.items():
        copy._modules[name] = None if child is None else _copy(child)
    return copy


def checked_img_size(img_size: Sequence[int]) -> tuple[int, int, int]:
    """Return ``img_size`` as (C, H, W), refused unless it is three positive integers."""
    try:
        sizes = tuple(integer("img_size", size, least=1) for size in img_size)
    except (TypeError, ValueError):
        sizes = ()
    if len(sizes) != 3:
        raise InputError(f"img_size must be three positive integers (C, H, W), got {img_size!r}")
    return sizes
