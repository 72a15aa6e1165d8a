"""A batch of reconstruction problems as rows: everything that belongs to a row is here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gprior.checks import InputError
from gprior.distances import FeatureDistance, feature_distance
from gprior.priors import Prior
from gprior.problem.forward import Forward, Leaves
from gprior.problem.stopping import AllSteps, HoldOut, Rule

__all__ = ["PerceptualTerm", "Problem"]

PER_ROW = (
    "y", "fit", "held", "image", "keys", "rules", "noise_std", "label", "latents", "maps", "weight"
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class PerceptualTerm:
    """The distance of two images on some features, in units of a typical one.

    Attributes
    ----------
    distance : FeatureDistance
        The features, and how they are compared.
    unit : float
        Its median between two samples of the prior.
    """

    distance: FeatureDistance
    unit: float

    def between(
        self, a: Sequence[Tensor], b: Sequence[Tensor], weight: Tensor | None = None
    ) -> Tensor:
        """Return the distance between the maps of two images, from ``distance.maps``, (R,)."""
        return feature_distance(a, b, weight) / self.unit


@dataclass(frozen=True, eq=False)
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
        Masks (R, ...) of the entries that the loss and the held-out criterion see. ``fit`` may
        hold weights between 0 and 1.
    image : Tensor
        Number of each row's image (R,), for operators with one parameter per image.
    keys : list of (seed, restart)
        Keys of each row's random draws.
    rules : list of Rule
        Stopping rule of each row.
    noise_std : Tensor
        Noise standard deviation of each row (R,); 0 where it is unknown.
    label : Tensor or None
        Class vectors (R, c_dim). None where there are no classes, or where they are to be found.
    latents : dict of Tensor or None
        Given starting points, by the names ``z``, ``w`` and ``c``, each (R, ...).
    perceptual : PerceptualTerm or None
        The perceptual distance, where it applies.
    maps : list of Tensor or None
        The feature maps of y, where they are known beforehand: see `prepared`. Whoever replaces
        y replaces them too.
    weight : Tensor or None
        Weights of the pixels of y in the perceptual distance (R, 1, H, W); None weighs all alike.
        In the mean square, ``fit`` has the weights.
    masked : bool
        Whether y lacks entries on which A depends: those of a masked array.
    """

    prior: Prior
    forward: Forward
    y: Leaves
    fit: Leaves
    held: Leaves
    image: Tensor
    keys: list[tuple[int, int]]
    rules: list[Rule]
    noise_std: Tensor
    label: Tensor | None = None
    latents: dict[str, Tensor] | None = None
    perceptual: PerceptualTerm | None = None
    maps: list[Tensor] | None = None
    weight: Tensor | None = None
    masked: bool = False

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: Tensor) -> Problem:
        """Return some of the rows."""

        def pick(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value[rows.to(value.device)]
            if isinstance(value, dict):
                return {name: pick(part) for name, part in value.items()}
            if value is not None and len(value) and isinstance(value[0], Tensor):
                return [pick(part) for part in value]
            return None if value is None else [value[i] for i in rows.tolist()]

        return replace(self, **{name: pick(getattr(self, name)) for name in PER_ROW})

    @torch.no_grad()
    def prepared(self) -> Problem:
        """Return the rows with the feature maps of y, where these will not change.

        They change where entries are held out or masked: the features see those as they are
        predicted.
        """
        if self.perceptual is None or self.masked or bool((entries(self.held) > 0).any()):
            return self
        return replace(self, maps=self.perceptual.distance.maps(self.y[0]))

    def judged_by_loss(self) -> Problem:
        """Return the rows with iterates compared by the loss, and none stopped early."""
        return replace(self, rules=[AllSteps() for _ in self.rules])

    def without_held_out(self) -> Problem:
        """Return the rows with no choice made by held-out entries.

        For the stages of a search on which later ones depend: they must not see these entries.
        """
        return replace(
            self, rules=[AllSteps() if rule == HoldOut() else rule for rule in self.rules]
        )

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

    def criterion(self, predicted: Leaves, loss: Tensor) -> Tensor:
        """Return what each row's rule compares, (R,); lower is better."""
        values = loss
        for rule, rows in self._by_rule(loss):
            values = torch.where(rows, rule.criterion(self, predicted, loss), values)
        return values

    def finished(self, criterion: Tensor) -> Tensor:
        """Return which rows need no more steps, (R,) bool."""
        done = torch.zeros_like(criterion, dtype=torch.bool)
        for rule, rows in self._by_rule(criterion):
            done = done | (rows & rule.finished(criterion))
        return done

    def _by_rule(self, like: Tensor) -> list[tuple[Rule, Tensor]]:
        """Return each rule in use, and which rows have it (R,) bool."""
        return [
            (rule, torch.tensor([other == rule for other in self.rules], device=like.device))
            for rule in dict.fromkeys(self.rules)
        ]

    def perceptual_distance(self, predicted: Tensor) -> Tensor:
        """Return the perceptual distance between A x and y for each row, (R,).

        Gradients reach ``predicted`` alone. There must be a perceptual term.
        """
        if self.perceptual is None:
            raise InputError("this problem has no perceptual term")
        maps, y_maps = self.perceptual.distance.maps, self.maps
        if y_maps is None:
            with torch.no_grad():
                y_maps = maps(self.seen(predicted))
        return self.perceptual.between(maps(predicted), y_maps, self.weight)

    def seen(self, predicted: Tensor) -> Tensor:
        """Return y (R, ...) with the prediction in place of the entries that are not fitted."""
        return torch.where(self.fit[0] > 0, self.y[0], predicted.detach())


def entries(masks: Leaves) -> Tensor:
    """Return how many entries the masks of each row hold, (R,)."""
    return torch.stack([mask.flatten(1).sum(1) for mask in masks]).sum(0)


def root_mean_square(leaves: Leaves, masks: Leaves) -> Tensor:
    """Return the root mean square of the entries of a mask, (R,)."""
    squares = [
        (leaf.abs().square() * mask).flatten(1).sum(1)
        for leaf, mask in zip(leaves, masks, strict=True)
    ]
    return (torch.stack(squares).sum(0) / entries(masks).clamp_min(1)).sqrt()
