"""BasinCMA and its family: populations of latents that gradients improve.

Huh, Zhang, Zhu, Paris and Hertzmann 2020, "Transforming and projecting images into
class-conditional generative networks", arXiv:2005.01703. The objective, over z and over the class
embedding c if the prior has one, is ::

    J = λ_pix |y - A x|² + λ_abs |y - A x|_1 + λ_vgg |φ(y) - φ(A x)|²,  x = G(z, c),  |z_i| ≤ 2

``basincma`` is lines 13 to 23 of algorithm 1 in the paper. It does the following 30 times: it draws
a population from CMA-ES, sets c back to its start, and takes 30 steps of Adam on (z, c) of each
member; then CMA-ES learns from the points where the members end and from their losses. Finally, it
takes 300 more steps. ``cma`` has no gradients, and ``cma+adam`` has them only at the end. ``adam``
starts only from random latents and keeps the best result (appendix A of the paper).

Differs from the authors' code
------------------------------
- The last 300 steps improve the best points of all generations. The authors' code draws a new
  population from the final distribution and discards the points that were optimised;
  ``elites=False`` does the same. In the benchmarks of gprior, this loses half or more of what the
  evolution gains over an equal number of restarts (``outer="random"``).
- The sampler learns from the points where members end (``learn_from="optimised"``), or where they
  start (``"sampled"``). The paper is ambiguous, and the two branches of the authors' code differ.
- CMA-ES is isotropic or diagonal and runs in torch, for many images at the same time. In so few
  generations, a full covariance stays within some per cent of the identity. ``outer="cma"`` uses
  the package that the authors use, and ``outer="nevergrad:NAME"`` the library of figures 14 and 15.
- The clamp is a projection after every step. The returned code satisfies it and has the loss that
  is reported. In the authors' code, the result is one step past both.
- As in `gprior.solvers.lbrgm`, the data term is the squared error with the weight 255² / 2. The
  authors use the L1 distance and 10 LPIPS, on [-1, 1]: ``pixel=0, absolute=2, feature=7`` in the
  units of gprior.
- The foreground mask weights each layer of the perceptual distance, as in equation 7 of the paper.
  The authors' code takes one mean over an upsampled map.
- c starts from a label, a distribution over classes, a classifier, or the best of all classes. If
  a prior has classes but no embedding, ``search_class=True`` searches its class vector on the
  simplex.
- If an encoder or latents are given, they are the centre of the population, with variance 0.5 as
  in the authors' code.
- In transforms, the scales and the brightness are logarithms, so that no scale becomes negative.
  Shifts move the scaled object, as the authors' inverse assumes, but their starting point does
  not. Images that shrink are filtered. The brightness varies a quarter as much as the other
  parameters, because a darker image has a smaller error while its shape is still wrong. The search
  starts at the object of ``foreground``, or at the object that differs from the border of y. It is
  compared with the box of the prior's samples on a plain background; the authors use the box of an
  object detector. If the budget is small, the search has more generations with fewer steps. The
  transform may act inside any A.
- The color transform is the brightness, as in the paper. ``transform="color"`` searches it alone.
- L-BFGS, which the paper compares, is the method `gprior.solvers.latent` with restarts. Its line
  search has no clamp.
- Fine-tuning of the weights is a step of its own, see `gprior.tune`. Edits are not blended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gprior.checks import InputError, integer
from gprior.priors import Prior
from gprior.problem import BACKGROUND, Problem
from gprior.search import Adam, Objective, Space, Trial, Variables, Watch
from gprior.solvers import placement
from gprior.solvers.population_base import Plan, Population

__all__ = ["CMA", "AdamSeeds", "BasinCMA", "CMAAdam"]


@dataclass(frozen=True)
class AdamSeeds(Population):
    """Adam from random latents, of which the best result is kept: ``adam``.

    Parameters
    ----------
    steps, population : int
        Number of steps for each latent, and number of latents. The paper has 500 and 18.
    bound, pixel, absolute, feature, lr, lr_class, search_class
        See `Population`.
    init, perceptual, max_batch
        See `Solver`.
    """

    steps: int = 500

    @property
    def plan(self) -> Plan:
        """Final steps alone, without generations."""
        return Plan(0, 0, self.steps)


@dataclass(frozen=True)
class CMA(Population):
    """CMA-ES alone, without gradients: ``cma``.

    Parameters
    ----------
    steps : int
        Number of generations. The paper has 300.
    outer : str
        The sampler. ``"csa"`` is isotropic CMA-ES, ``"diagonal"`` is diagonal CMA-ES, and
        ``"random"`` draws without learning. ``"cma"``, ``"cma:diagonal"`` and ``"cma:positive"``
        are variants in the package ``cma``; ``"nevergrad:NAME"`` is a method of nevergrad. See
        `gprior.search.PackageSampler`.
    population, bound, pixel, absolute, feature, lr, lr_class, search_class
        See `Population`. The method takes no gradient steps, so the class stays the same.
    init, perceptual, max_batch
        See `Solver`.
    """

    steps: int = 300
    outer: str = "csa"

    @property
    def plan(self) -> Plan:
        """Generations alone, without final steps."""
        return Plan(self.steps, 0, 0, self.outer)


@dataclass(frozen=True)
class CMAAdam(Population):
    """CMA-ES without gradients, then Adam: ``cma+adam``.

    Parameters
    ----------
    steps : tuple of 2 int
        Number of generations, and of the final steps of each member. The paper has 100 and 500.
    outer : str
        The sampler; see `CMA`.
    elites : bool
        Whether the final steps start from the best points of all generations. Otherwise they start
        from a population that is drawn from the last distribution.
    polish : int, optional
        Number of members in the final steps, at least 1. None means the size of the population.
    population, bound, pixel, absolute, feature, lr, lr_class, search_class
        See `Population`.
    init, perceptual, max_batch
        See `Solver`.
    """

    PAPER: ClassVar[Mapping[str, Any]] = {**Population.PAPER, "elites": False}
    steps: int | tuple[int, ...] = (100, 500)
    outer: str = "csa"
    elites: bool = True
    polish: int | None = None

    @property
    def plan(self) -> Plan:
        """Generations without gradient steps, then final steps."""
        return Plan(self.stages[0], 0, self.stages[1], self.outer, "sampled", *self._final_stage)

    @property
    def _final_stage(self) -> tuple[bool, int | None]:
        """The last two entries of a plan."""
        return self.elites, self.polish


@dataclass(frozen=True)
class BasinCMA(CMAAdam):
    """CMA-ES over latents that Adam improves in every generation: ``basincma``.

    Parameters
    ----------
    steps : int or tuple of 3 int
        Number of generations, of steps of each member in a generation, and of final steps. One
        number is the total number of steps of a member. A total that is f times the default
        multiplies each of the two nested numbers by √f.
    learn_from : {"optimised", "sampled"}
        Whether CMA-ES learns from the points where members end, or where they start.
    transform : bool or {"spatial", "color"}, optional
        Whether to search first, with as many steps, how the object is scaled, shifted and
        brightened (see `gprior.solvers.placement`). ``"spatial"`` leaves the brightness as it is,
        and ``"color"`` searches the brightness alone. The search of scales and shifts starts from
        the object in ``foreground`` or in the image y. The code then has a ``transform``, and
        ``Result.diagnostics["uncovered"]`` is the fraction of pixels that no pixel of the
        generated image reaches.
    outer, elites, polish
        See `CMAAdam`.
    population, bound, pixel, absolute, feature, lr, lr_class, search_class
        See `Population`.
    init, perceptual, max_batch
        See `Solver`.
    """

    steps: int | tuple[int, ...] = (30, 30, 300)
    learn_from: str = "optimised"
    transform: bool | str | None = None

    def __post_init__(self) -> None:
        if self.transform not in tuple(placement.SEARCHED):
            raise InputError(
                f"transform must be True, False, 'spatial' or 'color', got {self.transform!r}"
            )
        if not isinstance(self.steps, (tuple, list)):
            object.__setattr__(self, "steps", nested(self.steps, (30, 30, 300)))
        super().__post_init__()

    @property
    def plan(self) -> Plan:
        """Generations with gradient steps, then final steps."""
        outer, inner, final = self.stages
        return Plan(outer, inner, final, self.outer, self.learn_from, *self._final_stage)

    @property
    def transform_search(self) -> tuple[int, int]:
        """Number of generations, and of steps in each, for the search of the transform.

        The five numbers of a transform need many generations. Latents need few steps, because they
        start near the best latents so far. So there are up to 30 generations, as long as each
        has at least four steps.
        """
        outer, inner = self.plan.outer, self.plan.inner
        generations = max(outer, min(30, outer * inner // 4))
        return generations, outer * inner // max(generations, 1)

    @property
    def total(self) -> int:
        """Number of steps of each member, which includes the search of the transform."""
        return self.columns + bool(self.transform) * math.prod(self.transform_search)

    def cost(self, classes: int) -> float:
        """Return the evaluations of one restart, which include the search of the transform."""
        generations, steps = self.transform_search
        transform_cost = generations * placement.MEMBERS * (steps + 1 / 3)
        return super().cost(classes) + bool(self.transform) * transform_cost

    def prepare(
        self,
        problem: Problem,
        start: Variables,
        space: Space,
        objective: Objective,
        adam: Adam,
        watch: Watch,
    ) -> tuple[Problem, Variables, Callable[[int], Trial], Tensor]:
        """Search the transform first, if the method has one, and keep it constant afterwards."""
        if not self.transform:
            return super().prepare(problem, start, space, objective, adam, watch)
        phi, spread = self.first_transform(problem)
        start = {**start, "transform": phi}
        problem = replace(problem, prior=placement.Transformed(problem.prior))
        pointwise = placement.pointwise(problem)
        frame = placement.in_generator_frame if pointwise else placement.in_measurement_frame

        def trial(steps: int) -> Trial:
            return frame(space, objective, steps, adam)

        generations, inner = self.transform_search
        searched = placement.SEARCHED[self.transform]
        phi, spent = placement.search(
            problem, start, searched, spread, trial(inner), generations, self.max_batch, watch
        )
        if pointwise:
            covered = placement.covered(phi, problem.y[0].shape[2:])
            weight = covered if problem.weight is None else problem.weight * covered
            problem = replace(problem, fit=[problem.fit[0] * covered], weight=weight, maps=None)
        return problem, {**start, "transform": phi}, trial, spent

    def render(self, prior: Prior, code: Variables) -> Tensor:
        """Return the images of a code, which are transformed if the code has a transform."""
        return super().render(placement.Transformed(prior) if "transform" in code else prior, code)

    def first_transform(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Return the transforms at which the search starts (R, 5), and their deviations (R,).

        The first transform moves the usual box onto the foreground. Without a foreground, it moves
        the box onto the object in y, if y is an image without gaps; otherwise φ is 0. If only the
        brightness is searched, φ is 0 too.
        """
        prior, weight, y = problem.prior, problem.weight, problem.y[0]
        still = self.transform == "color"
        if weight is not None and not still:
            mask = (weight > (1 + BACKGROUND) / 2).to(weight)
            known = torch.ones_like(weight)
        elif placement.pointwise(problem) and not still:
            known = (problem.fit[0] > 0).to(y)
            mask = placement.salient_mask(y, known)
        else:
            identity = prior.like.new_zeros(len(problem), placement.SIZE)
            return identity, torch.full_like(identity[:, 0], placement.SPREAD)
        located = placement.densely_known(known)
        phi = placement.transform_onto(mask, placement.usual_box(prior)) * located[:, None]
        near = phi.new_tensor(placement.SPREAD_AT_OBJECT)
        return phi, torch.where(located, near, phi.new_tensor(placement.SPREAD))


def nested(total: int, proportions: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return outer, inner and final steps with outer · inner + final = total.

    A total of one step gives one generation with one step.

    >>> nested(1200, (30, 30, 300)), nested(300, (30, 30, 300)), nested(1, (30, 30, 300))
    ((30, 30, 300), (15, 15, 75), (1, 1, 0))
    """
    total = integer("steps", total, least=1)
    outer, inner, final = proportions
    scale = math.sqrt(total / (outer * inner + final))
    a = max(int(outer * scale + 1e-9), 1)
    b = max(int(inner * scale + 1e-9), 1)
    return a, b, total - a * b
