"""Weights that belong to single images: the differences from those of a prior."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from gprior.checks import InputError, integer
from gprior.files import open_tensors, write_tensors
from gprior.priors.prior import Prior
from gprior.priors.sharing import view_of
from gprior.priors.wrapped import Wrapped

__all__ = ["Tunable", "TunedWeights"]

FORMAT = "gprior-weights-1"


class Tunable(Wrapped):
    """A prior that generates every image of a batch with weights of its own.

    It shares the memory of the base and never changes it. The images of a batch pass through the
    generator one after the other: a batch of B takes B times as long as one image.

    Parameters
    ----------
    base : Prior
        The prior.

    Raises
    ------
    InputError
        If the weights cannot be replaced.
    """

    def __init__(self, base: Prior) -> None:
        if any(isinstance(module, torch.jit.ScriptModule) for module in base.modules()):
            raise InputError(
                f"the weights of {base.name} cannot be tuned: it is compiled by TorchScript; load "
                "it as an ordinary module"
            )
        super().__init__(view_of(base).requires_grad_(False))
        self.inputs = base.inputs - {"phase"}  # it is searched with the other latents, if at all

    def forward(self, weights: dict[str, Tensor] | None = None, **inputs: Any) -> Tensor:
        """Return images (B, C, H, W).

        Parameters
        ----------
        weights : dict of Tensor, optional
            Differences from the weights of the base, by name, each (B, ...).
        **inputs
            Those of the base, with B rows.
        """
        if not weights:
            return super().forward(**inputs)
        own = dict(self.base.named_parameters())
        images = []
        for row in range(len(next(iter(weights.values())))):
            changed = {name: own[name] + weights[name][row] for name in weights}
            images.append(functional_call(self.base, changed, (), _row(inputs, row)))
        return torch.cat(images)

    def used(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Return the weights on which the first image of some inputs depends, by name."""
        own = {
            name: p.detach().requires_grad_()
            for name, p in self.base.named_parameters()
            if p.is_floating_point()
        }
        with torch.enable_grad():
            image: Tensor = functional_call(self.base, own, (), _row(inputs, 0))
            slopes: Sequence[Tensor | None] = (None,) * len(own)
            if image.requires_grad:
                slopes = torch.autograd.grad(image.sum(), list(own.values()), allow_unused=True)
        used = zip(own.items(), slopes, strict=True)
        found = {name: p.detach() for (name, p), slope in used if slope is not None}
        if not found:
            raise InputError(
                f"{self.name} has no weights on which its images depend; a function keeps its "
                "weights to itself: wrap the module instead"
            )
        return found


def _row(value: Any, row: int) -> Any:
    """Return one row of the inputs of a prior."""
    if isinstance(value, dict):
        return {name: _row(part, row) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_row(part, row) for part in value)
    return value[row : row + 1] if isinstance(value, Tensor) else value


@dataclass(frozen=True, eq=False)
class TunedWeights:
    """The weights of a generator that was tuned to B images, each image for itself.

    Attributes
    ----------
    prior : str
        The digest of the prior that was tuned, see `Prior.digest`.
    full : dict of Tensor
        Differences from the weights of the prior by their names, each (B, ...).
    left, right : dict of (Tensor)
        The same as products: (B, m, r) times (B, r, ...); see `low_rank`.
    """

    prior: str
    full: dict[str, Tensor]
    left: dict[str, Tensor] = field(default_factory=dict)
    right: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(next(iter({**self.full, **self.left}.values())))

    def of(self, image: int) -> dict[str, Tensor]:
        """Return the differences of one image, by the names of the prior's weights."""
        integer("image", image, least=0, most=len(self) - 1)
        found = {name: value[image] for name, value in self.full.items()}
        for name, left in self.left.items():
            found[name] = torch.tensordot(left[image], self.right[name][image], 1)
        return found

    def generator(self, prior: Prior, image: int = 0) -> Prior:
        """Return the tuned generator of one image, as a frozen prior of its own.

        It can be used like every other prior, for example to change the latents of the image.

        Parameters
        ----------
        prior : Prior
            The prior that was tuned. It stays as it is.
        image : int
            Number of the image.

        Raises
        ------
        InputError
            If the prior is another one, if it has no such weights, or if there is no such image.
        """
        differences = self.of(image)
        if prior.digest() != self.prior:
            raise InputError(
                "prior must be the one that was tuned, in the same dtype: the weights belong to "
                f"{self.prior[:16]}, and the digest of this prior is {prior.digest()[:16]}"
            )
        own = copy.deepcopy(prior)
        weights = dict(own.named_parameters())
        for name, difference in differences.items():
            if name not in weights or weights[name].shape != difference.shape:
                raise InputError(f"the prior has no weight {name} {tuple(difference.shape)}")
            with torch.no_grad():  # which counts as a change: statistics of the prior are dropped
                weights[name].add_(difference.to(prior.like))
        own.record = {**prior.record, "tuned": {"prior": self.prior, "image": image}}
        return own.freeze()

    def low_rank(self, rank: int) -> TunedWeights:
        """Return the nearest differences of this rank, which need less memory.

        Every weight counts as a matrix with one row per output. Its singular vectors with the
        largest singular values are kept. Small weights stay as they are. The images change a
        little.

        Parameters
        ----------
        rank : int
            At least 1.
        """
        integer("rank", rank, least=1)
        full, left, right = {}, dict(self.left), dict(self.right)
        for name, value in self.full.items():
            m, n = value.shape[1:2].numel(), value.shape[2:].numel()
            if value.ndim < 3 or rank * (m + n) >= m * n:
                full[name] = value
                continue
            U, S, V = torch.linalg.svd(value.flatten(2), full_matrices=False)
            left[name] = U[..., :rank] * S[:, None, :rank]
            right[name] = V[:, :rank].unflatten(2, value.shape[2:])
        return TunedWeights(self.prior, full, left, right)

    def take(self, images: Tensor) -> TunedWeights:
        """Return the weights of some of the images, by their numbers."""
        parts = (
            {name: value[images.to(value.device)] for name, value in part.items()}
            for part in (self.full, self.left, self.right)
        )
        return TunedWeights(self.prior, *parts)

    @classmethod
    def join(cls, weights: Sequence[TunedWeights]) -> TunedWeights:
        """Return the weights of the images of all parts, one part after the other.

        Raises
        ------
        InputError
            If they are of different priors, names or ranks.
        """
        first = weights[0]
        shapes = [{n: v.shape[1:] for n, v in part.tensors().items()} for part in weights]
        if any(w.prior != first.prior for w in weights) or any(s != shapes[0] for s in shapes):
            raise InputError("weights must be of one prior and of the same names and ranks")
        return cls.of_tensors(
            first.prior,
            {name: torch.cat([w.tensors()[name] for w in weights]) for name in first.tensors()},
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors in one dictionary, as a file has them."""
        parts = {"full": self.full, "left": self.left, "right": self.right}
        return {f"{kind}.{k}": v for kind, part in parts.items() for k, v in part.items()}

    @classmethod
    def of_tensors(cls, prior: str, tensors: dict[str, Tensor]) -> TunedWeights:
        """Return the weights whose `tensors` these are.

        Raises
        ------
        InputError
            If the tensors do not belong together.
        """
        parts: dict[str, dict[str, Tensor]] = {"full": {}, "left": {}, "right": {}}
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            if kind not in parts:
                raise InputError(f"there is no place for the tensor {key!r}")
            parts[kind][name] = value
        left, right = parts["left"], parts["right"]
        products = left.keys() == right.keys() and all(
            left[k].ndim == 3 and right[k].ndim > 2 and left[k].shape[2] == right[k].shape[1]
            for k in left
        )
        images = {len(value) if value.ndim else None for value in tensors.values()}
        if not products or len(images) != 1 or None in images:
            raise InputError("its tensors must have one batch size, and products two factors")
        return cls(prior, **parts)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, which names the prior that it belongs to.

        Raises
        ------
        InputError
            If the path does not end in ``.safetensors``.
        OSError
            If it cannot be written; nothing is left behind.
        """
        metadata = {"format": FORMAT, "prior": self.prior}
        write_tensors(path, self.tensors(), metadata, "the weights")

    @classmethod
    def load(cls, path: str | Path) -> TunedWeights:
        """Read weights that `save` wrote.

        Raises
        ------
        InputError
            If the file is truncated, or has no tuned weights.
        """
        with open_tensors(path, FORMAT, "has no whole tuned weights") as (metadata, tensors):
            return cls.of_tensors(metadata["prior"], tensors)
