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

__all__ = ["Perceptual", "Problem", "Stop", "informative", "split"]

HOLD_OUT = 0.05
LEAST_ENTRIES = 200  # that must remain for the fit when entries are held out


@dataclass(frozen=True)
class Stop:
    """When an image is finished, and what its best iterate is.

    Attributes
    ----------
    rule : {"discrepancy", "holdout", "fixed"}
        Residual at the noise level; least error on held-out entries; least loss after a
        fixed number of steps.
    sigma : Tensor or None
        Noise standard deviation of each row (R,), for the discrepancy principle.
    tau : float
        Stop where the root mean square residual is at most tau sigma.
    """

    rule: str
    sigma: Tensor | None = None
    tau: float = 1.0


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
    stop : Stop
        Stopping rule.
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
    stop: Stop
    perceptual: Perceptual | None = None

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: Tensor) -> Problem:
        """Return some of the rows."""
        sigma = self.stop.sigma
        return replace(
            self,
            y=[leaf[rows] for leaf in self.y],
            fit=[leaf[rows] for leaf in self.fit],
            held=[leaf[rows] for leaf in self.held],
            image=self.image[rows],
            keys=[self.keys[i] for i in rows.tolist()],
            stop=replace(self.stop, sigma=None if sigma is None else sigma[rows]),
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
        count = torch.zeros_like(total)
        for p, y, m in zip(predicted, self.y, masks, strict=True):
            d = p - y
            square = torch.view_as_real(d).square().sum(-1) if d.is_complex() else d.square()
            total = total + (square * m).flatten(1).sum(1)
            count = count + m.flatten(1).sum(1)
        return total / count.clamp_min(1)

    def criterion(self, predicted: Leaves, loss: Tensor) -> Tensor:
        """Return what the stopping rule compares, per row (R,); lower is better."""
        if self.stop.rule == "holdout":
            return self.mean_square(predicted, self.held)
        if self.stop.sigma is not None:
            return self.mean_square(predicted, self.fit).sqrt() / self.stop.sigma
        return loss

    def finished(self, criterion: Tensor) -> Tensor:
        """Return which rows may stop now, (R,) bool."""
        if self.stop.rule == "discrepancy":
            return criterion <= self.stop.tau
        return torch.zeros_like(criterion, dtype=torch.bool)

    def distance(self, predicted: Leaves) -> Tensor:
        """Return the perceptual distance of y and A x, per row (R,), 0 where there is none.

        Held-out entries of y are replaced by their prediction, so that they stay unseen.
        """
        if self.perceptual is None:
            return predicted[0].new_zeros(len(self))
        held, y = self.held[0], self.y[0]
        seen = torch.where(held > 0, predicted[0].detach(), y) if self.stop.rule == "holdout" else y
        return self.perceptual(predicted[0], seen)


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
    masks: Leaves, keys: Sequence[int], complex_pairs: bool, fraction: float = HOLD_OUT
) -> tuple[Leaves, Leaves] | None:
    """Hold out some informative entries of each image, or return None if too few remain.

    Parameters
    ----------
    masks : list of Tensor
        Informative entries, (B, ...).
    keys : sequence of int
        Seed of each image.
    complex_pairs : bool
        Whether the two channels of a leaf (B, 2, ...) are a complex number: both stay
        together.
    fraction : float
        Share of entries held out.
    """
    remain = sum(mask.flatten(1).sum(1) for mask in masks) * (1 - fraction)
    if float(torch.as_tensor(remain).min()) < LEAST_ENTRIES:
        return None
    fit, held = [], []
    for k, mask in enumerate(masks):
        pairs = complex_pairs and mask.ndim > 2 and mask.shape[1] == 2
        shape = mask[0, :1].shape if pairs else mask.shape[1:]
        chosen = [torch.rand(shape, generator=generator(seed, "holdout", k)) for seed in keys]
        out = (torch.stack(chosen) < fraction).to(mask) * mask
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
