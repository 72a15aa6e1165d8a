"""A batch of reconstruction problems as rows: measurements, operator, prior, keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.checks import InputError
from gprior.distances import FeatureDistance, feature_distance
from gprior.priors import Prior
from gprior.problem.forward import Forward, Leaves
from gprior.randomness import uniform

__all__ = ["PerceptualTerm", "Problem", "informative", "split"]

HOLD_OUT = 0.05
LEAST_ENTRIES = 200  # that must remain for the fit when entries are held out


@dataclass(frozen=True)
class PerceptualTerm:
    """Distance of two images on some features, in units of a typical one.

    Attributes
    ----------
    distance : FeatureDistance
        On which features.
    unit : float
        Its median between two samples of the prior.
    """

    distance: FeatureDistance
    unit: float

    def between(
        self, a: Sequence[Tensor], b: Sequence[Tensor], weight: Tensor | None = None
    ) -> Tensor:
        """Return the distance of the maps of two images, from ``distance.maps``, (R,)."""
        return feature_distance(a, b, weight) / self.unit


@dataclass(frozen=True)
class Problem:
    """Rows of problems; a row is one restart of one image.

    Attributes
    ----------
    prior : Prior
        The generator.
    forward : Forward
        The operator.
    y : list of Tensor
        Measurements (R, ...).
    fit, held : list of Tensor
        0/1 masks (R, ...) of the entries that the loss and the held-out criterion see.
    image : Tensor
        Number of each row's image (R,), for operators with one parameter per image.
    keys : list of (seed, restart)
        Of each row's random draws.
    sigma : Tensor
        Noise standard deviation of each row (R,) for the discrepancy principle; NaN where
        it is not used.
    perceptual : PerceptualTerm or None
        The perceptual distance, where it applies.
    maps : list of Tensor or None
        The feature maps of y that it compares with, where they are known beforehand: see
        `prepared`. Whoever replaces y replaces them too.
    weight : Tensor or None
        Weights of the pixels of y in the perceptual distance (R, 1, H, W); None for all alike.
        In the mean square it is ``fit`` that weighs.
    blind : bool
        Iterates are not compared by held-out entries: for the stages of a search that later
        ones depend on, which must not see them.
    """

    prior: Prior
    forward: Forward
    y: Leaves
    fit: Leaves
    held: Leaves
    image: Tensor
    keys: list[tuple[int, int]]
    sigma: Tensor
    perceptual: PerceptualTerm | None = None
    maps: list[Tensor] | None = None
    weight: Tensor | None = None
    blind: bool = False

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: Tensor) -> Problem:
        """Return some of the rows."""
        return replace(
            self,
            y=[leaf[rows] for leaf in self.y],
            fit=[leaf[rows] for leaf in self.fit],
            held=[leaf[rows] for leaf in self.held],
            image=self.image[rows],
            keys=[self.keys[i] for i in rows.tolist()],
            sigma=self.sigma[rows],
            maps=None if self.maps is None else [f[rows] for f in self.maps],
            weight=None if self.weight is None else self.weight[rows],
        )

    @torch.no_grad()
    def prepared(self) -> Problem:
        """Return the rows with the feature maps of y, where these will not change.

        They do where entries are held out, which the features see as they are predicted.
        """
        if self.perceptual is None or bool((entries(self.held) > 0).any()):
            return self
        return replace(self, maps=self.perceptual.distance.maps(self.y[0]))

    def draw_keys(self, name: str, step: int = 0) -> list[tuple[int, int, str, int]]:
        """Return one key per row for the draw of this name."""
        return [(seed, restart, name, step) for seed, restart in self.keys]

    def measure(self, x: Tensor) -> Leaves:
        """Return the noiseless measurements of images x (R, C, H, W)."""
        return self.forward(x, self.image)

    def mean_absolute(self, predicted: Leaves, masks: Leaves) -> Tensor:
        """Return the mean of ``|y - A x|`` over the entries of a mask, per row (R,)."""
        return self._mean(torch.abs, predicted, masks)

    def mean_square(self, predicted: Leaves, masks: Leaves) -> Tensor:
        """Return the mean of ``|y - A x|^2`` over the entries of a mask, per row (R,)."""

        def square(d: Tensor) -> Tensor:
            return torch.view_as_real(d).square().sum(-1) if d.is_complex() else d.square()

        return self._mean(square, predicted, masks)

    def _mean(self, size: Callable[[Tensor], Tensor], predicted: Leaves, masks: Leaves) -> Tensor:
        total = torch.zeros((), dtype=self.y[0].real.dtype, device=self.image.device)
        for p, y, m in zip(predicted, self.y, masks, strict=True):
            total = total + (size(p - y) * m).flatten(1).sum(1)
        return total / entries(masks).clamp_min(1)

    def rules(self) -> list[str]:
        """Return the stopping rule of each row.

        ``"discrepancy"`` where the noise level is known, ``"holdout"`` where entries are
        held out, else ``"fixed"``.
        """
        return [
            "discrepancy" if known else "holdout" if out else "fixed"
            for known, out in zip(self.sigma.isfinite(), entries(self.held), strict=True)
        ]

    def criterion(self, predicted: Leaves, loss: Tensor) -> Tensor:
        """Return what each row's rule compares, (R,); lower is better.

        The residual in units of the noise level, the mean square on held-out entries, or
        the loss.
        """
        residual = self.mean_square(predicted, self.fit).sqrt() / self.sigma
        if self.blind:
            return torch.where(self.sigma.isfinite(), residual, loss)
        found = torch.where(entries(self.held) > 0, self.mean_square(predicted, self.held), loss)
        return torch.where(self.sigma.isfinite(), residual, found)

    def finished(self, criterion: Tensor) -> Tensor:
        """Return which rows may stop now, (R,) bool: those at the noise level."""
        return self.sigma.isfinite() & (criterion <= 1)

    def perceptual_distance(self, predicted: Tensor, halvings: bool = False) -> Tensor:
        """Return the perceptual distance of A x from y for each row, (R,).

        With ``halvings`` plus that of both averaged over 2x2 pixels, again and again while
        at least 16 are left. Gradients reach ``predicted`` alone. There must be a perceptual
        term.
        """
        if self.perceptual is None:
            raise InputError("this problem has no perceptual term")
        maps, between = self.perceptual.distance.maps, self.perceptual.between
        wanted, y = self.maps, self.seen(predicted)
        if wanted is None:
            with torch.no_grad():
                wanted = maps(y)
        total = between(maps(predicted), wanted, self.weight)
        while halvings and min(y.shape[2:]) >= 32:
            predicted, y = (F.avg_pool2d(image, 2) for image in (predicted, y))
            with torch.no_grad():
                wanted = maps(y)
            total = total + between(maps(predicted), wanted, self.weight)
        return total

    def seen(self, predicted: Tensor) -> Tensor:
        """Return y (R, ...), held-out entries replaced by their prediction to stay unseen."""
        return torch.where(self.held[0] > 0, predicted.detach(), self.y[0])


def entries(masks: Leaves) -> Tensor:
    """Return how many entries the masks of each row hold, (R,)."""
    return torch.stack([mask.flatten(1).sum(1) for mask in masks]).sum(0)


def informative(forward: Forward, like: Leaves, image: Tensor) -> Leaves:
    """Return 0/1 masks of the entries of y that depend on the image at all.

    An entry that is exactly zero for two random images in [0, 1] carries no information
    (the unobserved pixels of a mask).
    """
    masks = [torch.zeros_like(leaf.real) for leaf in like]
    for k in range(2):
        x = uniform((k, "informative"), forward.image_shape)
        with torch.no_grad():
            found = forward(x.to(forward.like).expand(len(image), -1, -1, -1), image)
        for mask, leaf in zip(masks, found, strict=True):
            mask[leaf.abs() > 0] = 1
    return masks


def split(
    masks: Leaves,
    keys: Sequence[int],
    complex_pairs: bool,
    wanted: Tensor | None = None,
    fraction: float = HOLD_OUT,
) -> tuple[Leaves, Leaves]:
    """Hold out some informative entries of each image, none where too few would remain.

    Parameters
    ----------
    masks : list of Tensor
        Informative entries, (B, ...).
    keys : sequence of int
        Seed of each image.
    complex_pairs : bool
        Whether the two channels of a leaf (B, 2, ...) are a complex number: both stay
        together.
    wanted : Tensor, optional
        Images to do so for, (B,) bool; None for all.
    fraction : float
        Share of entries held out.

    Returns
    -------
    fit, held : list of Tensor
        Masks of what the fit sees and of what is held out.
    """
    enough = entries(masks) * (1 - fraction) >= LEAST_ENTRIES
    if wanted is not None:
        enough = enough & wanted
    fit, held = [], []
    for k, mask in enumerate(masks):
        pairs = complex_pairs and mask.ndim > 2 and mask.shape[1] == 2
        shape = mask[0, :1].shape if pairs else mask.shape[1:]
        chosen = [uniform((seed, "holdout", k), shape) for seed in keys]
        out = (torch.stack(chosen) < fraction).to(mask) * mask
        out = out * enough.view(-1, *[1] * (mask.ndim - 1))
        held.append(out)
        fit.append(mask - out)
    return fit, held
