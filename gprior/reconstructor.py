"""The same methods inside deepinv: a `deepinv.models.Reconstructor`."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from deepinv.models import Reconstructor as DeepinvReconstructor
from torch import Tensor

from gprior.checks import InputError
from gprior.priors import Prior, sha256_of, view_of
from gprior.randomness import in_plain_mode
from gprior.solvers import Solver, find_solver
from gprior.solving import solve

__all__ = ["Reconstructor"]

OPTIONS = (
    "label", "noise_std", "stop", "restarts", "init", "correction", "tune", "foreground", "seed",
    "budget", "per_image",
)  # fmt: skip


class Reconstructor(DeepinvReconstructor):  # type: ignore[misc]
    """A prior and a solver as a deepinv model: ``model(y, physics)`` -> images.

    Each measurement of a batch is solved for itself; the model is silent, works under
    ``torch.no_grad`` and does the same in train and eval mode.

    Parameters
    ----------
    prior : Prior
        From `gprior.load_prior`. It stays frozen.
    solver : str or Solver, optional
        As for `gprior.solve`.
    trainable : bool
        Own a copy of the generator and let gradients reach it: latents are found with
        weights detached, and only the final decoding carries gradients, so that deepinv's
        training losses fine-tune the copy.
    **constants
        Fields of the solver, and the options ``label``, ``noise_std``, ``stop``,
        ``restarts``, ``init``, ``correction``, ``tune``, ``foreground``, ``seed``, ``budget``
        and ``per_image`` of `gprior.solve`. A trainable one has no ``tune``.

    Raises
    ------
    TypeError
        If a constant is misspelt.
    ValueError
        If the solver is unknown or does not fit the prior.

    Examples
    --------
    >>> import gprior
    >>> prior = gprior.load_prior("phantom-64")
    >>> A = gprior.operators.Masking(prior.image_shape, "half")
    >>> model = gprior.Reconstructor(prior, steps=2, init="random")
    >>> model(A(prior.sample(1)), A).shape
    torch.Size([1, 1, 64, 64])
    """

    def __init__(
        self,
        prior: Prior,
        solver: str | Solver | None = None,
        trainable: bool = False,
        **constants: Any,
    ) -> None:
        super().__init__()
        self.options = {k: constants.pop(k) for k in OPTIONS if k in constants}
        self.solver = find_solver(solver, prior, constants)
        self.trainable = trainable
        if trainable:
            prior = copy.deepcopy(prior).unfreeze()
        self.prior = prior

    def forward(
        self,
        y: Any,
        physics: Any,
        x_gt: Tensor | None = None,
        compute_metrics: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Reconstruct a batch.

        Parameters
        ----------
        y : Tensor or TensorList
            Measurements (B, ...).
        physics : object
            The operator, of any kind that `gprior.solve` takes.
        x_gt : Tensor, optional
            Ground truth (B, C, H, W), only to report the PSNR of the iterates.
        compute_metrics : bool
            Return also the iterates' ``"psnr"`` and ``"cost"``, a list per image.
        **kwargs
            Options of `gprior.solve` for this call; others are ignored.

        Returns
        -------
        Tensor or (Tensor, dict)
            Images (B, C, H, W), attached to the generator's weights if trainable.
        """
        options = {**self.options, **{k: v for k, v in kwargs.items() if k in OPTIONS}}
        if self.trainable and options.get("tune") is not None:
            raise InputError("tune must be None where trainable=True: its generator is another one")
        restarts = options.get("restarts", 1)
        psnr: list[list[float]] = []
        if compute_metrics and x_gt is not None:
            psnr = [[] for _ in x_gt]

        def look(step: int, rows: Tensor, loss: Tensor, image: Tensor) -> None:
            for row, x in zip(rows.tolist(), image, strict=True):
                if psnr and row % restarts == 0 and x_gt is not None:
                    error = (x - x_gt[row // restarts].to(x)).square().mean()
                    psnr[row // restarts].append(float(-10 * torch.log10(error)))

        # Gradients stop at a view of the weights, which are never switched: threads share them.
        prior = view_of(self.prior) if self.trainable else self.prior
        result = solve(y, physics, prior, self.solver, callback=look, **options)
        x = result.x
        if self.trainable:  # what the correction added stays, without gradients
            x = self._rendered(result.latents) + (result.x - result.generated)
        if isinstance(y, Tensor):
            x = x.to(y.device)
        if not compute_metrics:
            return x
        cost = [[v for v in row if not math.isnan(v)] for row in result.history.tolist()]
        return x, {"psnr": psnr, "cost": cost}

    def extra_repr(self) -> str:
        """Return what the answers depend on: models that print alike give the same answers."""
        options = ", ".join(f"{name}={_described(v)}" for name, v in self.options.items())
        lines = [
            f"solver={self.solver}",
            f"options=({options})",
            f"trainable={self.trainable}",
            f"prior={self.prior.name!r} {self.prior.image_shape}, sha256={self.prior.digest()}",
        ]
        return "\n".join(lines)

    @in_plain_mode
    def _rendered(self, latents: dict[str, Tensor]) -> Tensor:
        """Return the images of a code, attached to the weights."""
        return self.solver.render(self.prior, latents)


def _described(value: Any) -> str:
    """Return an option as text, with the contents of tensors as a hash."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {_described(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Tensor):
        return f"tensor of {tuple(value.shape)}, sha256 {sha256_of({'': value})}"
    return repr(value)
