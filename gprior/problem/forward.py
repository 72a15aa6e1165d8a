"""Any kind of operator A and of measurement y, checked once and brought to one form.

A measurement is a list of tensors (B, ...): one tensor for most operators, several for stacked
ones. An operator becomes a function of images and of their numbers in the batch. So an operator
with one parameter per image applies to each image the parameter of this image, whatever the
restarts, populations or batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator, lsqr
from torch import Tensor, nn

from gprior.checks import InputError, InputTypeError
from gprior.priors import detached, placed_as, tensors_of, view_of
from gprior.problem.matrices import (
    as_scipy,
    checked_matrix,
    checked_operator,
    coordinates_of,
    in_double,
    through_numpy,
)
from gprior.randomness import normal

__all__ = ["Forward", "Leaves", "as_leaves"]

Leaves = list[Tensor]
SMALL = 1e-8  # where LSQR stops: relative to y and A

# deepinv's operators whose measurement is an image, on which a perceptual distance has a meaning
IMAGE_LIKE = {
    "Inpainting",
    "Downsampling",
    "DownsamplingMatlab",
    "Blur",
    "BlurFFT",
    "SpaceVaryingBlur",
    "Denoising",
}


def as_leaves(y: Any) -> Leaves:
    """Return a measurement (tensor, array or tensor list) as a list of tensors."""
    if isinstance(y, Tensor):
        return [y]
    if isinstance(y, np.ndarray):
        y = np.ma.getdata(y)
        # A native copy: arrays may be read-only, reversed, of 16-bit integers or big-endian.
        return [torch.from_numpy(np.array(y, dtype=np.result_type(y, np.float32)))]
    if isinstance(getattr(y, "x", None), (list, tuple)) or isinstance(y, (list, tuple)):
        return [leaf for part in getattr(y, "x", y) for leaf in as_leaves(part)]
    raise InputTypeError(
        f"y must be a tensor, an array or a deepinv TensorList, got {type(y).__name__}"
    )


def observed(y: Any) -> list[Tensor | None]:
    """Return which entries of each tensor of y are given, (B, ...) bool, or None for all.

    Those of a NumPy masked array that are not masked. The order is that of `as_leaves`.
    """
    if isinstance(y, np.ma.MaskedArray):
        return [torch.from_numpy(~np.ma.getmaskarray(y))]
    if isinstance(y, (Tensor, np.ndarray)):
        return [None]
    return [given for part in getattr(y, "x", y) for given in observed(part)]


class Forward:
    """The measurement operator, applied to rows of images.

    Parameters
    ----------
    A : object
        deepinv physics, differentiable callable, dense matrix (tensor or array acting on
        ``x.flatten(1)``), `scipy.sparse` matrix or `scipy.sparse.linalg.LinearOperator`.
    image_shape : tuple of int
        (C, H, W) that A is to be applied to.
    like : Tensor
        dtype and device.
    images : int
        Number of images in the batch of measurements.
    per_image : sequence of str, optional
        Names of the operator's buffers that hold one entry per image, where trying does not
        show it.

    Raises
    ------
    InputError
        If A cannot act on such images.
    InputTypeError
        If A is none of the above.
    """

    def __init__(
        self,
        A: Any,
        image_shape: tuple[int, int, int],
        like: Tensor,
        images: int,
        per_image: Sequence[str] | None = None,
    ) -> None:
        self.A, self.image_shape, self.like = A, image_shape, like
        self.per_image: dict[str, Tensor] = {}
        self.physics = A if isinstance(A, nn.Module) and hasattr(A, "noise_model") else None
        self._call: Callable[[Tensor], Any]
        if isinstance(A, LinearOperator) or sparse.issparse(A):
            self._call = through_numpy(checked_operator(aslinearoperator(A), image_shape))
        elif isinstance(A, (Tensor, np.ndarray)):
            matrix = detached(checked_matrix(as_leaves(A)[0], image_shape)).to(like)
            if matrix.layout != torch.strided:
                sparse_matrix = coordinates_of(matrix)
                self._call = lambda x: torch.sparse.mm(sparse_matrix, x.flatten(1).t()).t()
            else:
                self._call = lambda x: x.flatten(1) @ matrix.t()
        elif callable(A):
            self._check_size()
            self._call = self._placed(A, images)
            self.per_image = self._find_per_image(images, per_image)
        else:
            raise InputTypeError(
                "A must be a deepinv physics, a callable, a matrix (tensor, array, scipy.sparse) "
                f"or a scipy LinearOperator, got {type(A).__name__}"
            )

    def __call__(self, x: Tensor, rows: Tensor) -> Leaves:
        """Return the noiseless measurements of images x (R, C, H, W) of the given numbers (R,)."""
        if self.per_image:
            buffers = {f"module.{k}": b[rows.to(b.device)] for k, b in self.per_image.items()}
            return as_leaves(torch.func.functional_call(self._call, buffers, (x,)))  # type: ignore[arg-type]
        return as_leaves(self._call(x))

    @property
    def measures_images(self) -> bool:
        """Whether the measurement is itself an image."""
        if self.physics is None:
            return False
        names = {cls.__name__ for cls in type(self.physics).__mro__}
        return bool(getattr(self.physics, "measurement_is_image", names & IMAGE_LIKE))

    def noise_std(self) -> Tensor | None:
        """Return the standard deviation of A's Gaussian noise model, or None without one.

        One for all images or one per image; 0 means unknown.
        """
        model = getattr(self.physics, "noise_model", None)
        if model is None or type(model).__name__ != "GaussianNoise":
            return None
        return torch.as_tensor(model.sigma, dtype=torch.float64, device="cpu").flatten()

    @torch.no_grad()
    def pseudo_inverse(self, y: Any) -> Tensor | None:
        """Return A^+ y as images (B, C, H, W), or None where A has no pseudo-inverse.

        For a matrix of any kind, LSQR computes the least-squares solution of least norm.
        """
        shape = (-1, *self.image_shape)
        if self.physics is not None:
            if not hasattr(self.physics, "A_dagger"):
                return None
            # deepinv's A_dagger writes its settings into the operator: here into our copy of it.
            x: Tensor = self._call.module.A_dagger(y)  # type: ignore[attr-defined]
            return x.reshape(shape)
        A = self.A
        if isinstance(A, (Tensor, np.ndarray)):
            A = as_scipy(as_leaves(A)[0])
        elif isinstance(A, LinearOperator) or sparse.issparse(A):
            A = in_double(aslinearoperator(A))
        else:
            return None
        rows = as_leaves(y)[0].double().cpu().flatten(1).numpy()
        solved = [lsqr(A, row, atol=SMALL, btol=SMALL)[0] for row in rows]
        return torch.from_numpy(np.stack(solved)).to(self.like).reshape(shape)

    def _check_size(self) -> None:
        size = getattr(self.physics, "img_size", None)
        if size is not None and len(size) == 3 and tuple(size) != self.image_shape:
            raise InputError(
                f"A acts on images of shape {tuple(size)}, but the prior makes {self.image_shape}; "
                f"build A for {self.image_shape} or use prior.adapt({tuple(size)})"
            )

    @torch.no_grad()
    def _placed(self, A: Callable[[Tensor], Any], images: int) -> Callable[[Tensor], Any]:
        """Return a form of A that runs on the prior's images and leaves the user's A unchanged.

        A module runs as a view of itself in eval mode. Where that fails, the view gets copies of
        the module's tensors in the dtype and on the device of the prior.
        """
        function = _on_module(A)
        if not isinstance(function, _OnModule):
            return function
        x = self.like.new_full((images, *self.image_shape), 0.5)
        try:
            if all(leaf.device == x.device for leaf in as_leaves(function(x))):
                return function
            reason = f"its measurements are not on {x.device}"
        except Exception as error:  # A is the user's and may raise anything
            reason = str(error)
        try:
            moved = _OnModule(view_of(function.module, placed_as(self.like)), function.method)
            moved(x)
        except Exception as error:
            places = {_place(t) for t in tensors_of(function.module) if _differs(t, self.like)}
            if not places or str(error) == reason:
                return function  # the place is not to blame: trying the batch shows A's error
            raise InputError(
                f"A is of {' and '.join(sorted(places))}, the prior of {_place(self.like)}, and A "
                f"does not run on the prior's images: {reason}; build A in the dtype and on the "
                "device of the prior, or call A.to(prior.like)"
            ) from error
        return moved

    def _find_per_image(self, images: int, named: Sequence[str] | None) -> dict[str, Tensor]:
        """Find, by trying, which buffers hold one entry per image."""
        buffers = dict(self._call.module.named_buffers()) if self.physics is not None else {}  # type: ignore[attr-defined]
        if named is not None:
            unknown = sorted(set(named) - set(buffers))
            if unknown:
                raise InputError(
                    f"per_image names {unknown}, but A has the buffers {sorted(buffers)}"
                )
            for name in named:
                if tuple(buffers[name].shape[:1]) != (images,):
                    raise InputError(
                        f"per_image names {name}, but it has shape {tuple(buffers[name].shape)}: "
                        f"its first axis must have one entry for each of the {images} images"
                    )
            return {name: buffers[name] for name in named}
        if images == 1 or self._separates({}, images):
            return {}
        able = [k for k, b in buffers.items() if b.ndim > 0 and b.shape[0] == images]
        for n in range(len(able), 0, -1):
            for subset in itertools.combinations(able, n):
                chosen = {name: buffers[name] for name in subset}
                if self._separates(chosen, images):
                    return chosen
        shapes = {name: tuple(b.shape) for name, b in buffers.items()}
        if self.physics is None:
            raise InputError(
                f"A does not act on {images} images one by one: what it measures of an image "
                "depends on the others or on chance. Switch that off, such as batch statistics or "
                "dropout"
            )
        raise InputError(
            f"A does not act on {images} images one by one. If it holds parameters per image, "
            f"give one for each of the {images} images in y and name their buffers with "
            f"per_image=(...); A has the buffers {shapes}"
        )

    @torch.no_grad()
    def _separates(self, chosen: dict[str, Tensor], images: int) -> bool:
        """Return whether A of the batch equals A of each image with its rows of these buffers."""
        keys = [(0, "per-image", i) for i in range(min(images, 3))]
        rows = torch.arange(len(keys), device="cpu")
        x = normal(keys, self.image_shape, self.like).repeat(-(-images // len(keys)), 1, 1, 1)
        self.per_image = chosen
        try:
            whole = as_leaves(self._call(x[:images]))
            for i in rows.tolist():
                alone = self(x[i : i + 1], rows[i : i + 1])
                for a, b in zip(whole, alone, strict=True):
                    if len(b) != 1 or len(a) != images or a[i].shape != b[0].shape:
                        return False
                    if not torch.allclose(a[i], b[0], rtol=1e-3, atol=1e-4):
                        return False
        except Exception:  # deepinv raises errors of many kinds for kernels that do not fit
            if images > 1 and not chosen:
                return self._fails_alone(x[:1])
            return False
        finally:
            self.per_image = {}
        return True

    def _fails_alone(self, x: Tensor) -> bool:
        """Re-raise A's own error if one image fails in the same way as the batch."""
        try:
            self._call(x)
        except Exception:
            buffers = () if self.physics is None else self.physics.buffers()
            if not any(b.ndim and b.shape[0] > 1 for b in buffers):
                raise
        return False


class _OnModule(nn.Module):
    """A method of a module, wrapped so that its buffers can be replaced for one call."""

    def __init__(self, module: nn.Module, method: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, x: Tensor) -> Any:
        return self.method(self.module, x)


def _on_module(A: Any) -> Callable[[Tensor], Any]:
    """Return a module, or a method of a module, as a function of a view of it; else A."""
    if isinstance(A, nn.Module):
        noiseless = hasattr(A, "noise_model")
        method = (lambda module, x: module.A(x)) if noiseless else (lambda module, x: module(x))
        return _OnModule(view_of(A), method)
    owner = getattr(A, "__self__", None)
    return _OnModule(view_of(owner), A.__func__) if isinstance(owner, nn.Module) else A


def _differs(tensor: Tensor, like: Tensor) -> bool:
    floating = tensor.is_floating_point() or tensor.is_complex()
    return tensor.device != like.device or (floating and tensor.real.dtype != like.dtype)


def _place(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
