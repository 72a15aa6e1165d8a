"""BasinCMA and its family: populations of latents, refined by gradients.

Huh, Zhang, Zhu, Paris and Hertzmann 2020, "Transforming and projecting images into
class-conditional generative networks", arXiv:2005.01703. Over z, and the class embedding c
where a prior has one ::

    J = λ_pix |y - A x|² + λ_abs |y - A x|_1 + λ_vgg |φ(y) - φ(A x)|²,  x = G(z, c),  |z_i| ≤ 2

``basincma`` (their algorithm 1, lines 13 to 23): 30 times, draw a population from CMA-ES, reset
c, take 30 steps of Adam on each member's (z, c), and let CMA-ES learn from where they ended and
how well; then 300 more steps. ``cma`` has no gradients, ``cma+adam`` only at the end, and
``adam`` only from random latents, the best of which is kept (their appendix A).

Differs from the authors' code
------------------------------
- The last 300 steps polish the archive of the best points seen. Theirs redraws a population
  from the final distribution and throws those away: ``elites=False``. In a check of equal
  budgets most of the gain over Adam was that of restarts and elites; ``outer="random"`` is
  that baseline.
- The sampler learns from where members ended (``told="optimised"``), or from where they
  started (``"sampled"``); the paper is ambiguous and its two code branches differ.
- CMA-ES is isotropic or diagonal in torch, many images at once: in so few generations a full
  covariance stays within some per cent of the identity. ``outer="cma"`` is their package.
- The clamp is a projection after every step. What is returned satisfies it and has the loss
  that is reported; theirs is a step past both.
- As in `gprior.solvers.lbrgm` squares with the weight 255² / 2 carry the data. Theirs are L1
  and 10 LPIPS on [-1, 1]: ``pixel=0, absolute=2, feature=7`` in our units.
- The foreground's mask weighs each layer of the perceptual distance, as in their equation 7;
  their code takes one mean over an upsampled map.
- c starts from a label, a distribution over classes, a classifier, or the best of all classes.
  A prior without an embedding has its class vector searched on the simplex where
  ``search_class=True``.
- An encoder or latents centre the population, with variance 0.5 as theirs.
- Transforms: scales and brightness are logarithms, so that no scale turns negative; shifts are
  of the scaled object, as their inverse assumes and their start does not; shrinking is
  filtered. The search starts from no transform, where theirs starts from the statistics of an
  object detector, and may act inside any A.
- Fine-tuning of the generator's weights and the blending of edits are not part of a solver.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from gprior import transforms
from gprior.initial import Init, tried
from gprior.loop import Adam, Outcome, Watch, minimise
from gprior.objective import GRAY_LEVEL, Objective
from gprior.population import Flock, Trial, evolve, redraw
from gprior.priors import Prior
from gprior.problem import Problem
from gprior.samplers import CSA, CMAPackage, Fixed, Sampler, population_size
from gprior.solvers.solver import Solver, is_whole
from gprior.space import Box, Simplex, Space, Variables, Z, ZClass, ZEmbedding, take

__all__ = ["CMA", "AdamSeeds", "BasinCMA", "CMAAdam", "Population"]

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
            raise ValueError(f"population must be an integer from 2 on, got {self.population!r}")
        if not self.bound > 0:
            raise ValueError(f"bound must be positive, got {self.bound!r}")
        plan = self.plan
        if plan.outer + plan.final < 1:
            raise ValueError(f"steps must have a generation or a final step, got {self.steps!r}")
        if plan.sampler not in OUTER:
            raise ValueError(f"outer must be one of {OUTER}, got {plan.sampler!r}")
        if plan.told not in TOLD:
            raise ValueError(f"told must be one of {TOLD}, got {plan.told!r}")
        if plan.polish is not None and (not is_whole(plan.polish) or plan.polish < 1):
            raise ValueError(f"polish must be a positive integer, got {plan.polish!r}")

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
            raise ValueError("population depends on the prior: call on(prior), or give it")
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

        return problem, start, trial, torch.zeros(len(problem), dtype=torch.float64)

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
        raise ValueError("search_class=True needs a prior with classes; leave it out")

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
    mask, y = torch.as_tensor(foreground), problem.y[0]
    mask = mask if mask.ndim == 4 else mask[None, None]
    if len(problem.y) != 1 or y.ndim != 4 or y.is_complex():
        raise ValueError("foreground needs a measurement that is one batch of images")
    last = int(problem.image.max())
    if tuple(mask.shape[1:]) != (1, *y.shape[2:]) or not (len(mask) == 1 or last < len(mask)):
        raise ValueError(
            f"foreground must have shape {tuple(y.shape[2:])}, or (B, 1, {y.shape[2]}, "
            f"{y.shape[3]}) with one mask for each image, got {tuple(foreground.shape)}"
        )
    rows = problem.image if len(mask) > 1 else torch.zeros_like(problem.image)
    weight = OUTSIDE + (1 - OUTSIDE) * (mask.to(y.device)[rows] > 0).to(y)
    return replace(problem, fit=[problem.fit[0] * weight], weight=weight)


@dataclass(frozen=True)
class AdamSeeds(Population):
    """Adam from random latents, the best of which is kept: ``adam``.

    Parameters
    ----------
    steps, population
        Iterates of each of the latents; the paper has 500 of 18.
    bound, pixel, absolute, feature, lr, lr_class, search_class, foreground
        As for `Population`.
    init, perceptual, max_batch
        See `Solver`.
    """

    steps: int = 500

    @property
    def plan(self) -> Plan:
        """No generation, only final steps."""
        return Plan(0, 0, self.steps)


@dataclass(frozen=True)
class CMA(Population):
    """CMA-ES alone, without gradients: ``cma``.

    Parameters
    ----------
    steps : int
        Generations; the paper has 300.
    outer : {"csa", "diagonal", "cma", "random"}
        Isotropic, diagonal, the package ``cma``, or random draws.
    population, bound, pixel, absolute, feature, lr, lr_class, search_class, foreground
        As for `Population`; no step is taken, so the class stays what it is.
    init, perceptual, max_batch
        See `Solver`.
    """

    steps: int = 300
    outer: str = "csa"

    @property
    def plan(self) -> Plan:
        """Generations alone."""
        return Plan(self.steps, 0, 0, self.outer)


@dataclass(frozen=True)
class CMAAdam(Population):
    """CMA-ES without gradients, then Adam: ``cma+adam``.

    Parameters
    ----------
    steps : tuple of 2 int
        Generations, and final steps of each polished member; the paper has 100 and 500.
    outer : {"csa", "diagonal", "cma", "random"}
        Isotropic, diagonal, the package ``cma``, or random draws.
    elites : bool
        Polish the best points seen; else a population drawn from the last distribution.
    polish : int, optional
        How many of them; None for as many as the population.
    population, bound, pixel, absolute, feature, lr, lr_class, search_class, foreground
        As for `Population`.
    init, perceptual, max_batch
        See `Solver`.
    """

    steps: int | tuple[int, ...] = (100, 500)
    outer: str = "csa"
    elites: bool = True
    polish: int | None = None

    @property
    def plan(self) -> Plan:
        """Generations without steps, and final steps."""
        return Plan(self.stages[0], 0, self.stages[1], self.outer, "sampled", *self._end)

    @property
    def _end(self) -> tuple[bool, int | None]:
        return self.elites, self.polish


@dataclass(frozen=True)
class BasinCMA(CMAAdam):
    """CMA-ES over latents that Adam refines in every generation: ``basincma``.

    Parameters
    ----------
    steps : int or tuple of 3 int
        Generations, steps of each member in each, and final steps: 30, 30 and 300. One number
        is all the steps of a member; the two nested loops get the square root of its share.
    told : {"optimised", "sampled"}
        Whether CMA-ES learns where a member ended, or where it started.
    transform : bool
        First search, in as many generations and steps, how the object is scaled, shifted and
        brightened, see `gprior.transforms`; the code has it as ``transform``, and
        ``Result.diagnostics["uncovered"]`` the share of pixels that it leaves to no one.
    outer, elites, polish
        As for `CMAAdam`.
    population, bound, pixel, absolute, feature, lr, lr_class, search_class, foreground
        As for `Population`.
    init, perceptual, max_batch
        See `Solver`.
    """

    steps: int | tuple[int, ...] = (30, 30, 300)
    told: str = "optimised"
    transform: bool = False

    def __post_init__(self) -> None:
        if is_whole(self.steps) and self.steps > 0:  # type: ignore[operator]
            object.__setattr__(self, "steps", nested(self.steps, (30, 30, 300)))  # type: ignore[arg-type]
        super().__post_init__()

    @property
    def plan(self) -> Plan:
        """Generations with steps, and final steps."""
        outer, inner, final = self.stages
        return Plan(outer, inner, final, self.outer, self.told, *self._end)

    @property
    def total(self) -> int:
        """Steps of a row, those of the transform's search included."""
        return self.columns + self.transform * self.plan.outer * self.plan.inner

    def cost(self, classes: int) -> float:
        """Return the evaluations of one restart, with the transform's search."""
        plan = self.plan
        searched = plan.outer * transforms.MEMBERS * (plan.inner + 1 / 3)
        return super().cost(classes) + self.transform * searched

    def prepare(
        self,
        problem: Problem,
        start: Variables,
        space: Space,
        objective: Objective,
        adam: Adam,
        watch: Watch,
    ) -> tuple[Problem, Variables, Callable[[int], Trial], Tensor]:
        """Search the transform first, where one is wanted, and hold it from there on."""
        if not self.transform:
            return super().prepare(problem, start, space, objective, adam, watch)
        problem = replace(problem, prior=transforms.Transformed(problem.prior))
        kept = transforms.pointwise(problem)
        kind = transforms.framed if kept else transforms.through

        def trial(steps: int) -> Trial:
            return kind(space, objective, steps, adam)

        outer, inner = self.plan.outer, self.plan.inner
        once = trial(inner)
        phi, spent = transforms.search(problem, start, once, outer, self.max_batch, watch)
        if kept:
            seen = transforms.covered(phi, problem.y[0].shape[2:])
            weight = seen if problem.weight is None else problem.weight * seen
            problem = replace(problem, fit=[problem.fit[0] * seen], weight=weight, maps=None)
        return problem, {**start, "transform": phi}, trial, spent


def nested(total: int, usual: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return outer, inner and final steps with outer · inner + final = total.

    >>> nested(1200, (30, 30, 300)), nested(300, (30, 30, 300)), nested(1, (30, 30, 300))
    ((30, 30, 300), (15, 15, 75), (1, 1, 0))
    """
    outer, inner, final = usual
    scale = math.sqrt(total / (outer * inner + final))
    a = max(int(outer * scale + 1e-9), 1)
    b = max(int(inner * scale + 1e-9), 1)
    return a, b, total - a * b
