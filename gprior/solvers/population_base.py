"""The base class of the methods with populations: members, constraint, objective and class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from gprior.checks import InputError, integer, number
from gprior.priors import Prior
from gprior.problem import Problem
from gprior.search import (
    CSA,
    GRAY_LEVEL,
    Adam,
    Box,
    Fixed,
    Init,
    Objective,
    Outcome,
    PackageSampler,
    PopulationSearch,
    Sampler,
    Simplex,
    Space,
    Trial,
    Variables,
    Watch,
    Z,
    ZClass,
    ZEmbedding,
    absolute,
    evolve,
    fidelity,
    in_package,
    minimise,
    perceptual,
    population_size,
    sample_members,
    take,
    tried,
)
from gprior.solvers.base import Solver

__all__ = ["Plan", "Population"]

BUILT_IN = ("csa", "diagonal", "random")
LEARN_FROM = ("optimised", "sampled")
LR_EMBEDDING, LR_CLASS = 1e-4, 0.02  # step sizes for a class embedding and a class vector


class Plan(NamedTuple):
    """What one method of the family does.

    Parameters
    ----------
    outer, inner, final : int
        Number of generations, of steps of each member in a generation, and of steps at the end.
    sampler : str
        The distribution from which generations are drawn: see ``outer`` of `CMA`.
    learn_from : {"optimised", "sampled"}
        Whether the sampler learns from the points where members end, or where they start.
    elites : bool
        Whether the final steps start from the best points of all generations. Otherwise they start
        from a population that is drawn from the last distribution.
    polish : int, optional
        Number of members in the final steps, at least 1. None means the size of the population.
    """

    outer: int
    inner: int
    final: int
    sampler: str = "random"
    learn_from: str = "sampled"
    elites: bool = False
    polish: int | None = None


@dataclass(frozen=True)
class Population(Solver):
    """The parts that all methods of the family have: members, constraint, objective.

    Parameters
    ----------
    population : int, optional
        Number of members of each row, at least 2. None means 4 + floor(3 ln d): 18 at d = 128,
        22 at d = 512.
    bound : float
        Largest |z_i|, above 0.
    pixel : float
        Weight λ_pix ≥ 0 of the mean of (y - A x)² over the observed entries, for images in [0, 1].
    absolute : float
        Weight λ_abs ≥ 0 of the mean of |y - A x|.
    feature : float
        Weight λ_vgg ≥ 0 of the perceptual distance, in units of its median over prior samples.
    lr, lr_class : float
        Step sizes of Adam for z and for the class. None for ``lr_class`` means the paper's 1e-4
        for an embedding, and 0.02 for a class vector, whose entries are in [0, 1].
    search_class : bool, optional
        Whether to search the class too. None means: if the prior has an embedding.
    steps, init, perceptual, max_batch
        See `Solver`. Populations start from N(0, I) if ``init="random"``, and otherwise around the
        starting point with variance 0.5.

    Notes
    -----
    ``Result.diagnostics["member_losses"]`` has the losses of the last population, the smallest
    first and those that are not finite as NaN at the end. ``["average_loss"]`` is their mean.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z"})
    PAPER: ClassVar[Mapping[str, Any]] = {
        "pixel": 0.0, "absolute": 2.0, "feature": 7.0, "perceptual": True,
    }  # fmt: skip
    init: Init = "random"
    population: int | None = None
    bound: float = 2.0
    pixel: float = GRAY_LEVEL
    absolute: float = 0.0
    feature: float = 1.0
    lr: float = 0.05
    lr_class: float | None = None
    search_class: bool | None = None

    @property
    def plan(self) -> Plan:
        """The numbers of generations and steps, and how members are sampled."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        super().__post_init__()
        number("bound", self.bound, above=0)
        plan = self.plan
        for name, value, least in (("population", self.population, 2), ("polish", plan.polish, 1)):
            if value is not None:
                integer(name, value, least=least)
        if self.lr_class is not None:
            number("lr_class", self.lr_class, least=0)
        if self.search_class not in (None, True, False):
            raise InputError(f"search_class must be None, True or False, got {self.search_class!r}")
        if plan.outer + plan.final < 1:
            raise InputError(
                f"steps must have at least a generation or a final step, got {self.steps!r}"
            )
        if plan.sampler not in BUILT_IN and not in_package(plan.sampler):
            raise InputError(
                f"outer must be one of {BUILT_IN}, 'cma', 'cma:diagonal', 'cma:positive', or "
                f"'nevergrad:' and a name such as 'nevergrad:DE'; got {plan.sampler!r}"
            )
        if plan.learn_from not in LEARN_FROM:
            raise InputError(f"learn_from must be one of {LEARN_FROM}, got {plan.learn_from!r}")

    def for_prior(self, prior: Prior) -> Solver:
        """Return this solver with a population size that fits the latents of the prior."""
        if self.population is not None:
            return self
        d = prior.draw([(0, "dimension")])[0].numel()
        return replace(self, population=population_size(d))

    @property
    def members(self) -> int:
        """Number of members of each row."""
        if self.population is None:
            raise InputError(
                "population depends on the prior; call for_prior(prior), or set population"
            )
        return self.population

    @property
    def final_members(self) -> int:
        """Number of members of each row in the final steps."""
        plan = self.plan
        members = plan.polish or self.members
        points = plan.outer * self.members  # of all generations, among which the elites are
        return min(members, points) if plan.elites and points else members

    @property
    def columns(self) -> int:
        """Length of the history: the steps of the generations and the final steps."""
        plan = self.plan
        return plan.outer * max(plan.inner, 1) + plan.final

    @property
    def total(self) -> int:
        """Number of steps of each member."""
        return self.columns

    def cost(self, classes: int) -> float:
        """Return the evaluations of one restart: the steps and last evaluation of each member."""
        plan = self.plan
        generations = plan.outer * self.members * (plan.inner + 1 / 3)
        final = self.final_members * (plan.final + 1 / 3) if plan.final else 0
        return generations + final + tried(self.init, classes) / 3

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Run the generations, then the final steps."""
        plan, P = self.plan, self.members
        objective, space = self.objective(), self.space(problem.prior)
        start, cost = self.starting_point(problem, objective, space)
        start = {k: v for k, v in start.items() if k != "w"}
        lr_class = {"embedding": LR_EMBEDDING, "c": LR_CLASS}
        if self.lr_class is not None:
            lr_class = dict.fromkeys(lr_class, self.lr_class)
        adam = Adam({"z": self.lr, **lr_class})
        first = self.sampler(start["z"], around_zero=self.init == "random")
        problem, start, trial, spent = self.prepare(problem, start, space, objective, adam, watch)

        def insert(rows: Tensor, start: Variables, points: Tensor) -> Variables:
            return {**start, "z": points.clamp(-self.bound, self.bound)}

        keep = self.final_members if plan.elites and plan.final else 0
        most = max(P, self.final_members)
        search = PopulationSearch(problem, start, most, self.columns, self.max_batch, watch, keep)
        sampler = evolve(
            search, first, P, trial(plan.inner), insert, plan.outer, learn_from=plan.learn_from
        )
        if plan.final and len(search.rows):
            if search.elites is not None:
                members = search.rows.repeat_interleave(search.elite_count)
                starts = {**take(start, members), **search.elites.code}
            else:
                members = search.rows.repeat_interleave(self.final_members)
                starts = sample_members(search, sampler, self.final_members, insert)
            final = search.attempt(members, starts, trial(plan.final), last=True)
            search.keep_generation(final, last=True)
        outcome = search.finish()
        return replace(outcome, evaluations=outcome.evaluations + cost + spent)

    def objective(self) -> Objective:
        """Return the objective J."""
        return Objective(fidelity(self.pixel), absolute(self.absolute), perceptual(self.feature))

    def prepare(
        self,
        problem: Problem,
        start: Variables,
        space: Space,
        objective: Objective,
        adam: Adam,
        watch: Watch,
    ) -> tuple[Problem, Variables, Callable[[int], Trial], Tensor]:
        """Return what the generations need.

        Returns
        -------
        problem : Problem
            The problem that the members solve.
        start : dict
            The starting point of each row.
        trial : callable
            Number of steps -> the trial that takes so many steps.
        spent : Tensor
            Evaluations that the preparation took, (R,).
        """

        def trial(steps: int) -> Trial:
            return lambda problem, start, watch: minimise(
                problem, space, objective, start, steps, adam, watch
            )

        spent = torch.zeros(len(problem), dtype=torch.float64, device="cpu")
        return problem, start, trial, spent

    def space(self, prior: Prior) -> Space:
        """Return the space of z with its bound, and of the class if it is searched."""
        box = Box(("z",), self.bound)
        embedded = "embedding" in prior.inputs and prior.c_dim > 0
        if self.search_class is False or (self.search_class is None and not embedded):
            return Z() & box
        if embedded:
            return ZEmbedding() & box
        if prior.c_dim:
            return ZClass() & box & Simplex(("c",))
        raise InputError("search_class=True needs a prior with classes; leave search_class out")

    def sampler(self, z: Tensor, around_zero: bool) -> Sampler:
        """Return the sampler of z: it has variance 1 around 0, or variance 0.5 around z (R, d)."""
        centre, sigma = (torch.zeros_like(z), 1.0) if around_zero else (z, math.sqrt(0.5))
        kind = self.plan.sampler
        if kind == "random":
            return Fixed(centre, sigma)
        if in_package(kind):
            return PackageSampler(kind, centre, sigma, self.members, self.plan.outer)
        return CSA(centre, sigma, self.members, diagonal=kind == "diagonal")
