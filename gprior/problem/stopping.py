"""When a row stops, and by what its iterates are compared: three rules, none sees the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from gprior.problem.forward import Forward, Leaves
from gprior.randomness import uniform

__all__ = ["AllSteps", "Discrepancy", "HoldOut", "Rule", "hold_out", "informative"]

SHARE = 0.05  # of the informative entries that are held out
LEAST_ENTRIES = 200  # that must remain for the fit when entries are held out


class Residuals(Protocol):
    """What a rule may look at: residuals of the measurements, and the noise level."""

    @property
    def noise_std(self) -> Tensor:
        """Noise standard deviation of each row (R,)."""

    @property
    def fit(self) -> Leaves:
        """Masks of the fitted entries (R, ...)."""

    @property
    def held(self) -> Leaves:
        """Masks of the held-out entries (R, ...)."""

    def mean_square(self, predicted: Leaves, masks: Leaves) -> Tensor:
        """Return the mean of ``|y - A x|^2`` over the entries of a mask, (R,)."""


class Rule(Protocol):
    """By what the iterates of a row are compared, and when the row is done."""

    name: ClassVar[str]

    def criterion(self, problem: Residuals, predicted: Leaves, loss: Tensor) -> Tensor:
        """Return the value that is compared, for every row (R,); lower is better."""

    def finished(self, criterion: Tensor) -> Tensor:
        """Return which rows need no more steps, (R,) bool."""


@dataclass(frozen=True)
class Discrepancy(Rule):
    """The discrepancy principle (Morozov 1966): stop where the residual is the noise level.

    The criterion is the root mean square of ``y - A x`` over the fitted entries, divided by
    the noise's standard deviation. At 1 a row is done.
    """

    name: ClassVar[str] = "discrepancy"

    def criterion(self, problem: Residuals, predicted: Leaves, loss: Tensor) -> Tensor:
        return problem.mean_square(predicted, problem.fit).sqrt() / problem.noise_std

    def finished(self, criterion: Tensor) -> Tensor:
        return criterion <= 1


@dataclass(frozen=True)
class HoldOut(Rule):
    """Keep the iterate that best predicts the entries of y that the fit does not see.

    The criterion is the mean square on the held-out entries. All steps are taken.
    """

    name: ClassVar[str] = "holdout"

    def criterion(self, problem: Residuals, predicted: Leaves, loss: Tensor) -> Tensor:
        return problem.mean_square(predicted, problem.held)

    def finished(self, criterion: Tensor) -> Tensor:
        return torch.zeros_like(criterion, dtype=torch.bool)


@dataclass(frozen=True)
class AllSteps(Rule):
    """Take all steps and keep the iterate of least loss."""

    name: ClassVar[str] = "fixed"

    def criterion(self, problem: Residuals, predicted: Leaves, loss: Tensor) -> Tensor:
        return loss

    def finished(self, criterion: Tensor) -> Tensor:
        return torch.zeros_like(criterion, dtype=torch.bool)


def informative(forward: Forward, like: Leaves, image: Tensor) -> Leaves:
    """Return 0/1 masks of the entries of y that depend on the image at all.

    An entry that is exactly zero for two random images in [0, 1] carries no information: it is
    an unobserved pixel of a mask.

    Parameters
    ----------
    forward : Forward
        The operator.
    like : list of Tensor
        Measurements of the shapes, dtypes and devices wanted, (B, ...).
    image : Tensor
        Number of each image (B,).
    """
    masks = [torch.zeros_like(leaf.real) for leaf in like]
    for k in range(2):
        x = uniform((k, "informative"), forward.image_shape)
        with torch.no_grad():
            measured = forward(x.to(forward.like).expand(len(image), -1, -1, -1), image)
        for mask, leaf in zip(masks, measured, strict=True):
            mask[leaf.abs() > 0] = 1
    return masks


def hold_out(
    masks: Leaves,
    keys: Sequence[int],
    complex_pairs: bool,
    wanted: Tensor | None = None,
    share: float = SHARE,
) -> tuple[Leaves, Leaves]:
    """Hold out some informative entries of each image, and none where too few would remain.

    Parameters
    ----------
    masks : list of Tensor
        Informative entries, (B, ...).
    keys : sequence of int
        Seed of each image.
    complex_pairs : bool
        Whether the two channels of a leaf (B, 2, ...) are a complex number: then both are held
        out, or neither.
    wanted : Tensor, optional
        The images that need held-out entries, (B,) bool; None means all.
    share : float
        Share of entries that are held out.

    Returns
    -------
    fit, held : list of Tensor
        Masks of the entries that the fit sees, and of those that are held out.
    """
    enough = torch.stack([mask.flatten(1).sum(1) for mask in masks]).sum(0) * (1 - share)
    enough = enough >= LEAST_ENTRIES
    if wanted is not None:
        enough = enough & wanted
    fit, held = [], []
    for k, mask in enumerate(masks):
        pairs = complex_pairs and mask.ndim > 2 and mask.shape[1] == 2
        shape = mask[0, :1].shape if pairs else mask.shape[1:]
        numbers = [uniform((seed, "holdout", k), shape) for seed in keys]
        out = (torch.stack(numbers) < share).to(mask) * mask
        out = out * enough.view(-1, *[1] * (mask.ndim - 1))
        held.append(out)
        fit.append(mask - out)
    return fit, held
