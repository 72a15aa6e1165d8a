"""What a method minimises: a weighted sum of terms, each one value per row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gprior.problem import Leaves, Problem
from gprior.search.space import Variables

__all__ = ["GRAY_LEVEL", "Objective", "Terms"]

Terms = dict[str, Tensor]
Regularizer = Callable[[Variables, Variables, dict[str, Any]], Tensor]

# 1 / 2 sigma^2 for a sigma of one gray level of 8 bits: the data weight where the noise level
# is unknown. Where it is known, the discrepancy principle ends the fit in time.
GRAY_LEVEL = 255**2 / 2


@dataclass(frozen=True)
class Objective:
    """J = sum over terms of weight times value, per row.

    Attributes
    ----------
    fidelity : float
        Weight of the mean of (y - A x)^2 over the observed entries.
    perceptual : float
        Weight of the perceptual distance of y and A x in units of its median over prior
        samples; no part where the problem has none.
    tolerance : float
        The mean square below which the data do not count.
    halvings : bool
        Whether the perceptual distance is summed over halvings of both images.
    clip_noise : float
        The search sees the image with noise of this deviation, clipped to [0, 1].
    absolute : float
        Weight of the mean of |y - A x| over the observed entries.
    regularizers : mapping
        Name -> (weight, function of (variables, start, generator inputs) -> (R,)).
    """

    fidelity: float
    perceptual: float = 0.0
    regularizers: Mapping[str, tuple[float, Regularizer]] | None = None
    tolerance: float = 0.0
    halvings: bool = False
    clip_noise: float = 0.0
    absolute: float = 0.0

    def data(self, problem: Problem, predicted: Leaves) -> Terms:
        """Return the weighted terms that look at y, each (R,)."""
        square = problem.mean_square(predicted, problem.fit)
        if self.tolerance:
            square = square.clamp_min(self.tolerance)
        terms = {"fidelity": self.fidelity * square}
        if self.absolute:
            terms["absolute"] = self.absolute * problem.mean_absolute(predicted, problem.fit)
        if problem.perceptual is not None and self.perceptual:
            terms["perceptual"] = self.perceptual * problem.perceptual_distance(
                predicted[0], self.halvings
            )
        return terms

    def __call__(
        self,
        problem: Problem,
        variables: Variables,
        start: Variables,
        inputs: dict[str, Any],
        predicted: Leaves,
    ) -> Terms:
        """Return every weighted term, each (R,)."""
        terms = self.data(problem, predicted)
        for name, (weight, function) in (self.regularizers or {}).items():
            terms[name] = weight * function(variables, start, inputs)
        return terms


def total(terms: Terms) -> Tensor:
    """Return the sum of the terms, (R,)."""
    return torch.stack(list(terms.values())).sum(0)
