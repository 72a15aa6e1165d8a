"""A batch of reconstruction problems as rows: measurements, operator, prior, keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.acquisition import Forward, Leaves
from gprior.features import Features, feature_distance
from gprior.priors import Prior
from gprior.randomness import generator

__all__ = ["Perceptual", "Problem", "informative", "split"]

HOLD_OUT = 0.05
LEAST_ENTRIES = 200  # that must remain for the fit when entries are held out


@dataclass(frozen=True)
class Perceptual:
    """Distance of two images on some features, divided by its median over prior samples.

    Attributes
    ----------
    features : callable
        Images (R, C, H, W) in [0, 1] -> list of feature maps.
    unit : float
        The median distance between two samples of the prior.
    restore : callable
        Maps measurements that are images to the shape that ``features`` expects.
    """

    features: Features
    unit: float
    restore: Callable[[Tensor], Tensor]

    def __call__(self, predicted: Tensor, y: Tensor) -> Tensor:
        """Return the distance for each row, (R,), with gradients to ``predicted`` alone."""
        with torch.no_grad():
            wanted = self.features(self.restore(y))
        return feature_distance(self.features(self.restore(predicted)), wanted) / self.unit


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
    perceptual : Perceptual or None
        The perceptual distance, where it applies.
    """

    prior: Prior
    forward: Forward
    y: Leaves
    fit: Leaves
    held: Leaves
    image: Tensor
    keys: list[tuple[int, int]]
    sigma: Tensor
    perceptual: Perceptual | None = None

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
        )

    def draw_keys(self, name: str, step: int = 0) -> list[tuple[int, int, str, int]]:
        """Return one key per row for the draw of this name."""
        return [(seed, restart, name, step) for seed, restart in self.keys]

    def measure(self, x: Tensor) -> Leaves:
        """Return the noiseless measurements of images x (R, C, H, W)."""
        return self.forward(x, self.image)

    def mean_square(self, predicted: Leaves, masks: Leaves) -> Tensor:
        """Return the mean of ``|y - A x|^2`` over the entries of a mask, per row (R,)."""
        total = torch.zeros((), dtype=self.y[0].real.dtype, device=self.image.device)
        for p, y, m in zip(predicted, self.y, masks, strict=True):
            d = p - y
            square = torch.view_as_real(d).square().sum(-1) if d.is_complex() else d.square()
            total = total + (square * m).flatten(1).sum(1)
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
        found = torch.where(entries(self.held) > 0, self.mean_square(predicted, self.held), loss)
        return torch.where(self.sigma.isfinite(), residual, found)

    def finished(self, criterion: Tensor) -> Tensor:
        """Return which rows may stop now, (R,) bool: those at the noise level."""
        return self.sigma.isfinite() & (criterion <= 1)

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
        x = torch.rand(forward.image_shape, generator=generator(k, "informative"))
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
        chosen = [torch.rand(shape, generator=generator(seed, "holdout", k)) for seed in keys]
        out = (torch.stack(chosen) < fraction).to(mask) * mask
        out = out * enough.view(-1, *[1] * (mask.ndim - 1))
        held.append(out)
        fit.append(mask - out)
    return fit, held


def perceptual_of(prior: Prior) -> Perceptual | None:
    """Return the distance on the features of the prior's own discriminator, if it has one."""
    critic, unit = prior.discriminator, prior.record.get("perceptual_unit")
    if critic is None or not unit or not math.isfinite(unit):
        return None
    size = critic.config["img_resolution"]
    restore = getattr(prior, "restore", lambda x: x)

    def at_full_size(x: Tensor) -> Tensor:
        """Bring a smaller measurement to the features' size, by area (as BRGM does)."""
        if tuple(x.shape[2:]) != prior.image_shape[1:]:
            x = F.interpolate(x, size=prior.image_shape[1:], mode="area")
        x = restore(x)
        return x if x.shape[-1] == size else F.interpolate(x, size=(size, size), mode="area")

    return Perceptual(lambda x: critic.features(2 * x - 1), unit, at_full_size)
