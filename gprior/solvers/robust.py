"""Robust unsupervised StyleGAN restoration: three nested spaces, normalised gradients.

Poirier-Ginter and Lalonde 2023, "Robust unsupervised StyleGAN image restoration",
arXiv:2302.06733. The search starts from the mean style. It goes first over one w for all layers,
then over one w per layer (w+), then over one w per output filter (w++). The objective is ::

    J = λ_pix |y - A x|² + λ_vgg Σ_k |φ(y_k) - φ((A x)_k)|²

where y_k is y after k halvings of the resolution by averaging, as long as at least 16 pixels
remain. Each step moves every style by a fixed length against its normalised gradient,
u ← u - η g / |g|, so that the same setting serves all operators.

Differs from the authors' code
------------------------------
- The authors' pixel term is 0.1 |y - A x|_1 at the last halving, together with LPIPS. As in
  `gprior.solvers.lbrgm`, the data term here is the squared error with the weight 255² / 2. It also
  works for a measurement that is not an image and therefore has no halvings.
- Step lengths are in units of the root mean square of |w - w̄|, which is about 10 for the authors'
  generator of faces. Their 0.08, 0.02 and 0.005 are 0.008, 0.002 and 0.0005 of it. They ask users
  to change the lengths by hand for other generators.
- The authors fill the unobserved pixels of both images with random noise. Here both images are
  zero there.
- gprior returns the best iterate by the stopping criterion, not the last iterate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.priors import HasFilters, spread
from gprior.problem import Problem
from gprior.search import (
    GRAY_LEVEL,
    PERCEPTUAL,
    Filters,
    Init,
    Iterate,
    Objective,
    Outcome,
    Term,
    Variables,
    W,
    Watch,
    WPlus,
    absolute,
    fidelity,
    rate,
)
from gprior.solvers.base import Solver

__all__ = ["Robust"]


@dataclass(frozen=True)
class NormalizedGradient:
    """The step u ← u - η g / |g|, for each style vector of each row.

    Attributes
    ----------
    lr : float or mapping
        η, the length of a step, in the units of w.
    """

    lr: float | Mapping[str, float]

    def step(
        self, variables: Variables, grads: Variables, state: dict[str, Variables], t: float
    ) -> tuple[Variables, dict[str, Variables]]:
        """Return the next variables and the state, which stays as it is."""
        moved = {
            name: x.detach() - rate(self.lr, name) * unit(grads[name])
            for name, x in variables.items()
        }
        return moved, state

    def fresh(self, variables: Variables) -> dict[str, Variables]:
        """Return the state at the start, which is empty."""
        return {}


def unit(g: Tensor) -> Tensor:
    """Scale vectors along the last axis to length 1; zero vectors stay zero."""
    length = g.norm(dim=-1, keepdim=True)
    scaled: Tensor = g / length.where(length > 0, length.new_ones(()))
    return scaled


def over_halvings(at: Iterate) -> Tensor:
    """Return the perceptual distance between y and A x, summed over halvings of both, (R,).

    Each halving averages both images over blocks of 2x2 pixels. The halvings end when the next one
    would leave fewer than 16 pixels along an axis.
    """
    predicted, y = at.predicted[0], at.problem.seen(at.predicted[0])
    value = at.problem.perceptual_distance(predicted)
    while min(y.shape[2:]) >= 32:
        predicted, y = (F.avg_pool2d(image, 2) for image in (predicted, y))
        halved = replace(at.problem, y=[y], maps=None, fit=[torch.ones_like(y)])
        value = value + halved.perceptual_distance(predicted)
    return value


@dataclass(frozen=True)
class Robust(Solver):
    """Search w, then w+, then w++, by normalised gradients (Poirier-Ginter and Lalonde 2023).

    Parameters
    ----------
    pixel : float
        Weight λ_pix ≥ 0 of the mean of (y - A x)² over the observed entries, for images in [0, 1].
    absolute : float
        Weight λ_abs ≥ 0 of the mean of |y - A x|.
    feature : float
        Weight λ_vgg ≥ 0 of the perceptual distance, in units of its median over prior samples.
    lr : tuple of 3 float
        Length of a step in each space, in units of the root mean square of |w - w̄|.
    steps, init, perceptual, max_batch
        See `Solver`. The paper has 150 steps in each space and ``init="mean"``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "w", "filters"})
    steps: int | tuple[int, ...] = (150, 150, 150)
    init: Init = "mean"
    pixel: float = GRAY_LEVEL
    absolute: float = 0.0
    feature: float = 1.0
    lr: tuple[float, float, float] = (0.008, 0.002, 0.0005)

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J over the three spaces; each search starts from the last result."""
        prior = problem.prior
        length = spread(prior) * prior.w_avg.shape[-1] ** 0.5
        halvings = Term(PERCEPTUAL, self.feature, over_halvings, data=True)
        objective = Objective(fidelity(self.pixel), absolute(self.absolute), halvings)
        spaces = W(), WPlus(), Filters(cast(HasFilters, prior).num_filters)
        stages = [
            (space, NormalizedGradient(lr * length))
            for space, lr in zip(spaces, self.lr, strict=True)
        ]
        return self.search(problem, watch, objective, *stages)
