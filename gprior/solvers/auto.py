"""auto: the default method, which finds out how far the prior is to be trusted.

It is gprior's own method. It searches the styles of the layers in units of their spread, as ::

    w_l = w̄ + s (e + d_l),        x = G(w_1, ..., w_L)

w̄ and s are the mean and the standard deviations of w in the class of the image. e is shared by all
layers and d_l belongs to one layer. The objective has no weight to set ::

    J = κ m/2 log(|y - A x|² / m + σ²) + |e|²/2 + ρ n/2 log(1 + |d|² / (n τ²))

- The first term is the negative log likelihood of m measurements with the noise level that fits
  them best, but not less than σ, which is 0 where it is unknown (the profile likelihood). It does
  not depend on the units of y.
- The prior of w is Gaussian: e has the distribution N(0, 1).
- Images in range have d = 0. The last term is the same construction for the n numbers of d: it
  binds a small d tightly, and it gives way if the image needs a large one.

It is minimised in two stages:

1. Adam with κ = 2, from w̄, with a step size that falls to 2 % as a cosine. What the best image then
   leaves of y tells how far the prior is to be trusted: t is 1 if it is noise, and inversely
   proportional to it if it is much more, see `gprior.search.residuals`.
2. Where t is small, Adam goes on with κ = 2 / t², at most 64: the less the prior is to be trusted,
   the less it binds the search. Where t is large, the image is probably in range, which is the
   image of the mapping network. Gauss-Newton steps in z find it there, see
   `gprior.search.gauss_newton`: a few of them come nearer than Adam in any number of steps. Where
   they leave too much of y after all, Adam takes what steps are left.

The image of the search is then corrected, see `gprior.search.correction`, with a prior weight that
follows from t. An image that was found in range with t of at least 0.95 stays as it is.

A prior without styles is searched in z, whose prior term is |z|²/2.

The constants were tuned on 12 problems of 8 samples of the prior, 8 phantoms and 8 images outside
its domain, all of other seeds and slices than those of any table, in about 40 runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from gprior.priors import Prior, moments
from gprior.problem import Problem, root_mean_square
from gprior.search import (
    Adam,
    Init,
    Iterate,
    Objective,
    Outcome,
    Space,
    Step,
    Term,
    Variables,
    Watch,
    Z,
    minimise,
    profile_likelihood,
    response,
    take,
    trust,
)
from gprior.solvers.base import Solver
from gprior.solvers.in_range import IN_RANGE, search_in_range

__all__ = ["Auto"]

SETTLED = 50  # steps after which the usual residual has fallen to twice that of a long search
WEIGHT = "likelihood"  # κ of each row, in the starting point of a stage


@dataclass(frozen=True)
class Auto(Solver):
    """Search under a prior that gives way, find out how far to trust it, and correct the image.

    Parameters
    ----------
    likelihood : float
        κ > 0 in the first stage.
    most : float
        The largest κ in the second stage.
    release : float
        ρ ≥ 0, the weight of the prior of d.
    tightness : float
        τ > 0: the root mean square of d from which it gives way, in units of the spread of w.
    in_range : bool
        Whether images that are trusted after the first stage are searched in z.
    lr, lr_late : float
        Step sizes of Adam in the two stages, in units of the spread of w or of z.
    steps, init, perceptual, max_batch
        See `Solver`. There are two stages, and there is no perceptual term. With ``init="mean"``,
        a prior without styles starts from the best of 64 latents.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z"})
    has_perceptual: ClassVar[bool] = False
    correction: ClassVar[str | None] = "auto"
    steps: int | tuple[int, ...] = (100, 200)
    init: Init = "mean"
    perceptual: bool = False
    likelihood: float = 2.0
    most: float = 64.0
    release: float = 0.3
    tightness: float = 0.03
    in_range: bool = True
    lr: float = 0.1
    lr_late: float = 0.06

    def for_prior(self, prior: Prior) -> Auto:
        """Return this solver with candidates to start from, if the prior has no styles."""
        if self.init != "mean" or "w" in prior.inputs:
            return self
        return replace(self, init="best-of:64")

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Search under the prior, decide how far to trust it, and search again."""
        space, prior_terms = self._model(problem.prior)
        objective = Objective(profile_likelihood(self.likelihood, WEIGHT), *prior_terms)
        start, cost = self.starting_point(problem, objective, space)
        first, second = self.stages
        adam, late = (Adam(lr, schedule=cosine) for lr in (self.lr, self.lr_late))
        if first:
            blind = problem.without_held_out()
            outcome = minimise(blind, space, objective, start, first, adam, watch)
            belief = self._belief(problem, outcome.image, first)
            left = torch.full((len(problem),), second, device="cpu")
            if self.in_range:
                outcome, belief, left = search_in_range(
                    blind, outcome, belief, second, self.max_batch, watch
                )
            found = outcome.diagnostics.get(IN_RANGE, torch.zeros_like(belief))
            release = (1 / belief.square()).clamp_max(self.most / self.likelihood)
            start = {**outcome.start, **outcome.code, WEIGHT: release}
            parts = rows_by(left) if second else []
            ends = [
                minimise(
                    problem.take(rows), space, objective, take(start, rows), steps, late,
                    watch.take(rows), outcome.take(rows),
                )
                for steps, rows in parts
            ]  # fmt: skip
            if parts:
                outcome = Outcome.join(ends).take(torch.cat([rows for _, rows in parts]).argsort())
        else:
            outcome = minimise(problem, space, objective, start, second, late, watch)
            belief = self._belief(problem, outcome.image, second)
            found = torch.zeros_like(belief)
        diagnostics = {**outcome.diagnostics, "trust": belief, IN_RANGE: found}
        return replace(outcome, evaluations=outcome.evaluations + cost, diagnostics=diagnostics)

    def _model(self, prior: Prior) -> tuple[Space, list[Term]]:
        """Return the space, and the negative log density of the prior as terms."""
        if "w" not in prior.inputs:
            return Z(), [Term("latent", 0.5, lambda at: at.variables["z"].square().sum(1))]

        def deviation(at: Iterate) -> Tensor:
            d = at.variables["deviation"].flatten(1)
            return d.shape[1] / 2 * torch.log1p(d.square().mean(1) / self.tightness**2)

        return SharedStyles(prior), [
            Term("shared", 0.5, lambda at: at.variables["shared"].square().sum(1)),
            Term("deviation", self.release, deviation),
        ]

    @torch.no_grad()
    def _belief(self, problem: Problem, image: Tensor, steps: int) -> Tensor:
        """Return how far the measurements let one trust the prior, (R,).

        A short search leaves more of y even if the prior contains the image.
        """
        left = [p - y for p, y in zip(problem.measure(image), problem.y, strict=True)]
        residual = root_mean_square(left, problem.fit)
        return trust(problem, residual, problem.fit, response(problem) * (1 + SETTLED / steps))


@dataclass(frozen=True)
class SharedStyles(Space):
    """Styles as deviations from the mean, in units of the spread: shared, and of each layer.

    Variables are ``shared`` e (R, w_dim) and ``deviation`` d (R, num_ws, w_dim).
    """

    prior: Prior
    needs = frozenset({"w"})

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        mean, spread = self._moments(start)
        scaled = (start["w"] - mean[:, None]) / spread[:, None]
        shared = scaled.mean(1)
        return {"shared": shared, "deviation": scaled - shared[:, None]}

    def finish(self, variables: Variables, start: Variables, step: Step) -> Variables:
        mean, spread = self._moments(start)
        scaled = variables["shared"][:, None] + variables["deviation"]
        others = {k: v for k, v in variables.items() if k not in ("shared", "deviation")}
        return {**others, "w": mean[:, None] + spread[:, None] * scaled}

    def _moments(self, start: Variables) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviations of w in the class of each row."""
        mean, spread = moments(self.prior)
        rows = len(start["w"])
        if "c" in start:
            return start["c"] @ mean, start["c"] @ spread
        return mean.expand(rows, -1), spread.expand(rows, -1)


def rows_by(steps: Tensor) -> list[tuple[int, Tensor]]:
    """Return each number of steps that occurs, and the rows that have it.

    >>> rows_by(torch.tensor([9, 0, 9]))
    [(0, tensor([1])), (9, tensor([0, 2]))]
    """
    numbers = sorted(set(steps.tolist()))
    return [(n, (steps == n).nonzero()[:, 0]) for n in numbers]


def cosine(t: float) -> float:
    """Return a factor of the step size that falls from 1 to 0.02 at the fraction t of a stage."""
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * t))
