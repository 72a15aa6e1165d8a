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
  from the final distribution and throws those away: ``elites=False``, which costs half or more
  of what the evolution gained over equal restarts, ``outer="random"``, in our benchmarks.
- The sampler learns from where members ended (``learn_from="optimised"``), or from where they
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
  filtered; brightness varies a quarter as much as the rest, because a darker image has the
  smaller error while its shape is still wrong. The search starts where ``foreground``, or what
  stands out in y, has the object, against the box of what the prior draws before a plain
  background; theirs against that of an object detector. It has more generations of fewer
  steps where the budget is small, and may act inside any A.
- Fine-tuning of the generator's weights and the blending of edits are not part of a solver.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gprior.checks import integer
from gprior.priors import Prior
from gprior.problem import BACKGROUND, Problem
from gprior.search import Adam, Objective, Space, Trial, Variables, Watch
from gprior.solvers import placement as transforms
from gprior.solvers.population_base import Plan, Population

__all__ = ["CMA", "AdamSeeds", "BasinCMA", "CMAAdam"]


@dataclass(frozen=True)
class AdamSeeds(Population):
    """Adam from random latents, the best of which is kept: ``adam``.

    Parameters
    ----------
    steps, population
        Iterates of each of the latents; the paper has 500 of 18.
    bound, pixel, absolute, feature, lr, lr_class, search_class
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
    population, bound, pixel, absolute, feature, lr, lr_class, search_class
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
    population, bound, pixel, absolute, feature, lr, lr_class, search_class
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
    learn_from : {"optimised", "sampled"}
        Whether CMA-ES learns where a member ended, or where it started.
    transform : bool
        First search, with as many steps, how the object is scaled, shifted and brightened, see
        `gprior.solvers.placement`, from where ``foreground`` or the image y has it. The code has
        it as ``transform``, and ``Result.diagnostics["uncovered"]`` is the share of pixels that
        no pixel of the generated image reaches.
    outer, elites, polish
        As for `CMAAdam`.
    population, bound, pixel, absolute, feature, lr, lr_class, search_class
        As for `Population`.
    init, perceptual, max_batch
        See `Solver`.
    """

    steps: int | tuple[int, ...] = (30, 30, 300)
    learn_from: str = "optimised"
    transform: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.steps, (tuple, list)):
            object.__setattr__(self, "steps", nested(self.steps, (30, 30, 300)))
        super().__post_init__()

    @property
    def plan(self) -> Plan:
        """Generations with steps, and final steps."""
        outer, inner, final = self.stages
        return Plan(outer, inner, final, self.outer, self.learn_from, *self._end)

    @property
    def placing(self) -> tuple[int, int]:
        """Generations and steps of the transform's search.

        Five numbers need their generations more than latents that go on from the last best
        ones need steps: up to 30 where four steps remain for each.
        """
        outer, inner = self.plan.outer, self.plan.inner
        generations = max(outer, min(30, outer * inner // 4))
        return generations, outer * inner // max(generations, 1)

    @property
    def total(self) -> int:
        """Steps of a row, those of the transform's search included."""
        return self.columns + self.transform * math.prod(self.placing)

    def cost(self, classes: int) -> float:
        """Return the evaluations of one restart, with the transform's search."""
        generations, steps = self.placing
        searched = generations * transforms.MEMBERS * (steps + 1 / 3)
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
        phi, spread = self.first(problem)
        start = {**start, "transform": phi}
        problem = replace(problem, prior=transforms.Transformed(problem.prior))
        kept = transforms.pointwise(problem)
        kind = transforms.framed if kept else transforms.through

        def trial(steps: int) -> Trial:
            return kind(space, objective, steps, adam)

        generations, inner = self.placing
        once = trial(inner)
        phi, spent = transforms.search(
            problem, start, spread, once, generations, self.max_batch, watch
        )
        if kept:
            seen = transforms.covered(phi, problem.y[0].shape[2:])
            weight = seen if problem.weight is None else problem.weight * seen
            problem = replace(problem, fit=[problem.fit[0] * seen], weight=weight, maps=None)
        return problem, {**start, "transform": phi}, trial, spent

    def render(self, prior: Prior, code: Variables) -> Tensor:
        """Return the images of a code, transformed where it has a transform."""
        return super().render(transforms.Transformed(prior) if "transform" in code else prior, code)

    def first(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Return where the search of transforms starts (R, 5), and how widely (R,).

        At the box of the foreground, or of what stands out in y where it is an image without
        gaps; else at no transform.
        """
        prior, weight, y = problem.prior, problem.weight, problem.y[0]
        if weight is not None:
            seen = (weight > (1 + BACKGROUND) / 2).to(weight)
            known = torch.ones_like(weight)
        elif transforms.pointwise(problem):
            known = (problem.fit[0] > 0).to(y)
            seen = transforms.standing_out(y, known)
        else:
            nowhere = prior.like.new_zeros(len(problem), transforms.SIZE)
            return nowhere, torch.full_like(nowhere[:, 0], transforms.SPREAD)
        found = transforms.dense(known)
        phi = transforms.placement(seen, transforms.usual_box(prior)) * found[:, None]
        near, spread = (phi.new_tensor(v) for v in (transforms.NEAR, transforms.SPREAD))
        return phi, torch.where(found, near, spread)


def nested(total: int, usual: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return outer, inner and final steps with outer · inner + final = total.

    One step is one generation of one step.

    >>> nested(1200, (30, 30, 300)), nested(300, (30, 30, 300)), nested(1, (30, 30, 300))
    ((30, 30, 300), (15, 15, 75), (1, 1, 0))
    """
    total = integer("steps", total, least=1)
    outer, inner, final = usual
    scale = math.sqrt(total / (outer * inner + final))
    a = max(int(outer * scale + 1e-9), 1)
    b = max(int(inner * scale + 1e-9), 1)
    return a, b, total - a * b
