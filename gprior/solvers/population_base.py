"""What the methods with populations share: members, constraint, objective, class, foreground."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from gprior.checks import InputError
from gprior.priors import Prior
from gprior.problem import Problem
from gprior.search import (
    CSA,
    GRAY_LEVEL,
    Adam,
    Box,
    CMAPackage,
    Fixed,
    Flock,
    Init,
    Objective,
    Outcome,
    Sampler,
    Simplex,
    Space,
    Trial,
    Variables,
    Watch,
    Z,
    ZClass,
    ZEmbedding,
    evolve,
    minimise,
    population_size,
    redraw,
    take,
    tried,
)
from gprior.solvers.base import Solver, is_whole

__all__ = ["Plan", "Population", "weighted"]

OUTER = ("csa", "diagonal", "cma", "random")
TOLD = ("optimised", "sampled")
OUTSIDE = 0.3  # weight of the background


class Plan(NamedTuple):
    """A member of the family: generations, steps in each, steps at the end."""

    outer: int
    inner: int
    final: int
    sampler: str = "random"
    told: str = "sampled"
    elites: bool = False
    polish: int | None = None


@dataclass(frozen=True)
class Population(Solver):
    """What the family shares: members, constraint, objective.

    Parameters
    ----------
    population : int, optional
        Members of each row; None for 4 + floor(3 ln d): 18 at d = 128, 22 at d = 512.
    bound : float
        Largest size of an entry of z.
    pixel, absolute : float
        λ_pix and λ_abs, on the means of (y - A x)² and |y - A x| over observed entries.
    feature : float
        λ_vgg, on the perceptual distance in units of its median over prior samples.
    lr, lr_class : float
        Adam's steps of z and of the class.
    search_class : bool, optional
        Whether the class is searched too; None where the prior has an embedding.
    foreground : Tensor, optional
        The object's pixels, 1 in it and 0 outside, (H, W), or one for each image
        (B, 1, H, W); outside the loss has the weight 0.3. For measurements that are images.
    steps, init, perceptual, max_batch
        See `Solver`. Populations start from N(0, I) where ``init="random"``, else around the
        starting point with variance 0.5.

    Notes
    -----
    ``Result.diagnostics["average_loss"]`` is the mean loss of the last population.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z"})
    init: Init = "random"
    population: int | None = None
    bound: float = 2.0
    pixel: float = GRAY_LEVEL
    absolute: float = 0.0
    feature: float = 1.0
    lr: float = 0.05
    lr_class: float = 1e-4
    search_class: bool | None = None
    foreground: Tensor | None = None

    @property
    def plan(self) -> Plan:
        """Which of the family this is."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.population is not None and (not is_whole(self.population) or self.population < 2):
            raise InputError(f"population must be an integer from 2 on, got {self.population!r}")
        if not self.bound > 0:
            raise InputError(f"bound must be positive, got {self.bound!r}")
        plan = self.plan
        if plan.outer + plan.final < 1:
            raise InputError(f"steps must have a generation or a final step, got {self.steps!r}")
        if plan.sampler not in OUTER:
            raise InputError(f"outer must be one of {OUTER}, got {plan.sampler!r}")
        if plan.told not in TOLD:
            raise InputError(f"told must be one of {TOLD}, got {plan.told!r}")
        if plan.polish is not None and (not is_whole(plan.polish) or plan.polish < 1):
            raise InputError(f"polish must be a positive integer, got {plan.polish!r}")

    def on(self, prior: Prior) -> Solver:
        """Return this solver with its population for the latents of a prior."""
        if self.population is not None:
            return self
        d = prior.draw([(0, "dimension")])[0].numel()
        return replace(self, population=population_size(d))

    @property
    def members(self) -> int:
        """Members of each row."""
        if self.population is None:
            raise InputError("population depends on the prior: call on(prior), or give it")
        return self.population

    @property
    def polished(self) -> int:
        """Members of the final steps."""
        plan = self.plan
        wanted = plan.polish or self.members
        seen = plan.outer * self.members
        return min(wanted, seen) if plan.elites and seen else wanted

    @property
    def columns(self) -> int:
        """Length of the history: the steps of the generations and the final ones."""
        plan = self.plan
        return plan.outer * max(plan.inner, 1) + plan.final

    @property
    def total(self) -> int:
        """Steps of a row."""
        return self.columns

    def cost(self, classes: int) -> float:
        """Return the evaluations of one restart: every member's steps, and its last look."""
        plan = self.plan
        generations = plan.outer * self.members * (plan.inner + 1 / 3)
        final = self.polished * (plan.final + 1 / 3) if plan.final else 0
        return generations + final + tried(self.init, classes) / 3

    def run(self, problem: Problem, c: Tensor | None, watch: Watch) -> Outcome:
        """Evolve populations, then polish."""
        prior, plan, P = problem.prior, self.plan, self.members
        problem = weighted(problem, self.foreground)
        objective = Objective(self.pixel, self.feature, absolute=self.absolute)
        space = self.space(prior)
        start, cost = self.begin(problem, c, objective, space)
        start = {k: v for k, v in start.items() if k != "w"}
        adam = Adam({"z": self.lr, "embedding": self.lr_class, "c": self.lr_class})
        problem, start, trial, extra = self.prepare(problem, start, space, objective, adam, watch)

        def vary(rows: Tensor, start: Variables, points: Tensor) -> Variables:
            return {**start, "z": points.clamp(-self.bound, self.bound)}

        keep = self.polished if plan.elites and plan.final else 0
        flock = Flock(problem, start, self.columns, self.max_batch, watch, keep)
        sampler = self.sampler(start["z"])
        sampler = evolve(flock, sampler, P, trial(plan.inner), vary, plan.outer, told=plan.told)
        if plan.final and len(flock.rows):
            if flock.elites is not None:
                members = flock.rows.repeat_interleave(flock.count)
                begin = {**take(start, members), **flock.elites.code}
            else:
                members = flock.rows.repeat_interleave(self.polished)
                begin = redraw(flock, sampler, self.polished, vary)
            ended = flock.attempt(members, begin, trial(plan.final), last=True)
            flock.record(ended, last=True)
        outcome = flock.finish()
        outcome.evaluations += cost + extra
        return outcome

    def prepare(
        self,
        problem: Problem,
        start: Variables,
        space: Space,
        objective: Objective,
        adam: Adam,
        watch: Watch,
    ) -> tuple[Problem, Variables, Callable[[int], Trial], Tensor]:
        """Return problem, start, what a trial of so many steps is, and what that took."""

        def trial(steps: int) -> Trial:
            return lambda problem, start, watch: minimise(
                problem, space, objective, start, steps, adam, watch
            )

        spent = torch.zeros(len(problem), dtype=torch.float64, device="cpu")
        return problem, start, trial, spent

    def space(self, prior: Prior) -> Space:
        """Return z in its box, with the class where it is searched."""
        box = Box(("z",), self.bound)
        embedded = "embedding" in prior.inputs and prior.c_dim > 0
        if self.search_class is False or (self.search_class is None and not embedded):
            return Z() & box
        if embedded:
            return ZEmbedding() & box
        if prior.c_dim:
            return ZClass() & box & Simplex(("c",))
        raise InputError("search_class=True needs a prior with classes; leave it out")

    def sampler(self, z: Tensor) -> Sampler:
        """Return the outer sampler around z (R, d), or around 0 where z is only a draw."""
        drawn = isinstance(self.init, str) and self.init == "random"
        centre, sigma = (torch.zeros_like(z), 1.0) if drawn else (z, math.sqrt(0.5))
        kind = self.plan.sampler
        if kind == "random":
            return Fixed(centre, sigma)
        if kind == "cma":
            return CMAPackage(centre, sigma, self.members)
        return CSA(centre, sigma, self.members, diagonal=kind == "diagonal")


def weighted(problem: Problem, foreground: Tensor | None) -> Problem:
    """Return the problem with the background's weight lowered in every term."""
    if foreground is None:
        return problem
    y = problem.y[0]
    mask = torch.as_tensor(foreground, device=y.device)
    mask = mask if mask.ndim == 4 else mask[None, None]
    if len(problem.y) != 1 or y.ndim != 4 or y.is_complex():
        raise InputError("foreground needs a measurement that is one batch of images")
    last = int(problem.image.max())
    if tuple(mask.shape[1:]) != (1, *y.shape[2:]) or not (len(mask) == 1 or last < len(mask)):
        raise InputError(
            f"foreground must have shape {tuple(y.shape[2:])}, or (B, 1, {y.shape[2]}, "
            f"{y.shape[3]}) with one mask for each image, got {tuple(foreground.shape)}"
        )
    rows = problem.image if len(mask) > 1 else torch.zeros_like(problem.image)
    weight = OUTSIDE + (1 - OUTSIDE) * (mask[rows] > 0).to(y)
    return replace(problem, fit=[problem.fit[0] * weight], weight=weight)
