"""The base class of all solvers: a frozen dataclass of a paper's constants, with a method `run`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from gprior.checks import InputError, integer, number
from gprior.distances import check_perceptual
from gprior.priors import Prior
from gprior.problem import Problem
from gprior.search import (
    LAYERS,
    Init,
    Objective,
    Optimizer,
    Outcome,
    Space,
    Variables,
    Watch,
    check_init,
    inputs_of,
    minimise,
    starting_point,
    tried,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Solver"]


@dataclass(frozen=True)
class Solver:
    """A reconstruction method: its constants, without data of any image.

    Parameters
    ----------
    steps : int or tuple of int
        Number of steps of the gradient loop, at least 1. If a method has several stages, a tuple
        has one number for each stage, and one number is divided in the proportions of the paper.
    init : str or callable
        Starting point: ``"mean"``, ``"random"``, ``"best-of:N"``, ``"random-layers"`` for a random
        latent per layer, ``"encoder"`` for the encoder of the prior, the ``.safetensors`` file of
        one, a callable (pseudo-inverse image -> latents), or ``"latents"`` for the latents that are
        passed to `gprior.solve`.
    perceptual : bool, str, callable or None
        Whether there is a perceptual term. None adds it if the measurement is an image, True
        requires it, and False leaves it out. A name in `gprior.distances.NAMES`, a
        `gprior.Perceptual` or a callable (images in [0, 1] -> list of feature maps) requires it
        and chooses the features.
    max_batch : int
        Number of rows (images times restarts) that go through the generator at the same time, at
        least 1. It changes memory and speed, but not the result.

    Raises
    ------
    InputError
        If a constant has the wrong type or is out of its range.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    has_perceptual: ClassVar[bool] = True  # if it is False, ``perceptual`` is refused
    correction: ClassVar[str | None] = None  # the correction that belongs to the method
    PAPER: ClassVar[Mapping[str, Any]] = {}  # constants of the paper that differ from the defaults
    steps: int | tuple[int, ...] = 1000
    init: Init = "mean"
    perceptual: bool | str | Callable[..., Any] | None = None
    max_batch: int = 32

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Solve every row of the problem.

        Parameters
        ----------
        problem : Problem
            R rows.
        watch : Watch
            Receives the progress, and has the callback.

        Returns
        -------
        Outcome
            The result of each row.
        """
        raise NotImplementedError

    def search(
        self,
        problem: Problem,
        watch: Watch,
        objective: Objective,
        *stages: tuple[Space, Optimizer],
        candidates_by: Objective | None = None,
    ) -> Outcome:
        """Minimise the objective over one space after the other, from the start given by `init`.

        Each stage starts from the best code of the stage before. A stage without steps is left out.

        Parameters
        ----------
        problem, watch
            As for `run`.
        objective : Objective
            The objective to minimise.
        *stages : (Space, Optimizer)
            The space and the optimizer of each stage.
        candidates_by : Objective, optional
            Its data terms choose between the candidates of the starting point. None means
            ``objective``.

        Returns
        -------
        Outcome
            The result of each row, with the cost of all stages and of the start.
        """
        start, cost = self.starting_point(problem, candidates_by or objective, stages[0][0])
        outcome = None
        for (space, optimizer), steps in zip(stages, self.stages, strict=True):
            if steps:
                outcome = minimise(
                    problem, space, objective, start, steps, optimizer, watch, outcome
                )
                start = {**outcome.start, **outcome.code}
        if outcome is None:
            raise InputError(f"steps must be positive in at least one stage, got {self.steps}")
        return replace(outcome, evaluations=outcome.evaluations + cost)

    def starting_point(
        self, problem: Problem, objective: Objective, space: Space
    ) -> tuple[Variables, Tensor]:
        """Return the point at which a search of this space starts, and its cost.

        Parameters
        ----------
        problem : Problem
            R rows.
        objective : Objective
            Its data terms choose between the candidates.
        space : Space
            The space to search.

        Returns
        -------
        start : dict
            The starting point, see `gprior.search.starting_point`.
        cost : Tensor
            Evaluations (R,).

        Raises
        ------
        InputError
            If the space starts from z, and the given latents have no z. If it has one z for all
            layers, and ``init`` is ``"random-layers"``.
        """
        latents = problem.latents
        if space.from_z and latents is not None and "z" not in latents:
            raise InputError(
                f"{type(self).__name__} starts from z, but init has {sorted(latents)}; add z to it"
            )
        if self.init == LAYERS and space.from_z and "w" not in space.needs:
            raise InputError(
                f"init={LAYERS!r} needs a search of one latent or style per layer, and "
                f"{type(self).__name__} searches one z for all layers; choose init='random'"
            )
        return starting_point(problem, objective, self.init, self.max_batch)

    @classmethod
    def paper(cls, **constants: Any) -> Self:
        """Return the method with the constants of its paper, in the units of gprior.

        The defaults of gprior differ where a paper's constants need features of a VGG network,
        thousands of steps, or a measurement that is an image. The page of each method says why.
        Where the paper and its authors' code differ, this is the paper.

        Parameters
        ----------
        **constants
            Fields of the method, which replace those of the paper.

        Raises
        ------
        InputError
            If a constant is out of range.

        Examples
        --------
        >>> from gprior.solvers import LBRGM
        >>> LBRGM.paper().pixel, LBRGM.paper(steps=300).steps
        (1.3, 300)
        """
        return cls(**{**cls.PAPER, **constants})

    def render(self, prior: Prior, code: Variables) -> Tensor:
        """Return the images (B, C, H, W) of a code, such as ``Result.latents``."""
        x: Tensor = prior(**inputs_of(code))
        return x

    def for_prior(self, prior: Prior) -> Solver:
        """Return this solver with the constants that depend on the prior filled in.

        The base class has no such constants and returns the solver itself.
        """
        return self

    @property
    def members(self) -> int:
        """Number of candidates of a row that go through the generator at the same time."""
        return 1

    def required(self) -> frozenset[str]:
        """Return the inputs of the prior that the method needs with these constants."""
        return self.needs

    @property
    def stages(self) -> tuple[int, ...]:
        """Number of steps of each stage."""
        return self.steps if isinstance(self.steps, tuple) else (self.steps,)

    @property
    def total(self) -> int:
        """Number of steps of all stages together."""
        return sum(self.stages)

    def cost(self, classes: int) -> float:
        """Return the number of evaluations for one restart of one image.

        They are the steps, the candidates of the start, and the last evaluation of each stage.

        Parameters
        ----------
        classes : int
            Number of classes to choose from: 1 if the label is known.
        """
        last = sum(n > 0 for n in self.stages)
        return self.total + last / 3 + tried(self.init, classes) / 3

    def with_budget(self, budget: float, restarts: int, classes: int) -> Solver:
        """Return this solver with the largest number of steps that a budget allows.

        Candidates, restarts and the last evaluations count.

        Parameters
        ----------
        budget : float
            Evaluations for one image. An evaluation is one forward and one backward pass of the
            generator for one image.
        restarts : int
            Number of restarts, at least 1.
        classes : int
            Number of classes to choose from: 1 if the label is known.

        Raises
        ------
        InputError
            If the budget is less than the cost of a single step, or is not finite.
        """

        def cost(steps: int) -> float:
            return restarts * replace(self, steps=steps).cost(classes)

        if not cost(1) - 1e-9 <= budget < math.inf:
            raise InputError(
                f"budget must be at least {cost(1):.1f} evaluations for {restarts} restart(s) with "
                f"init={self.init!r} and finite, got {budget}; raise it, or choose a cheaper init"
            )
        fits, too_many = 1, int(budget / restarts + 1e-9) + 1
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if cost(middle) <= budget + 1e-9:
                fits = middle
            else:
                too_many = middle
        return replace(self, steps=fits)

    def __post_init__(self) -> None:
        for f in fields(self):
            if f.name not in ("steps", "init", "perceptual"):
                value = _checked(f.name, getattr(self, f.name), f.default)
                object.__setattr__(self, f.name, value)
        object.__setattr__(self, "steps", self._checked_steps())
        check_init(self.init)
        if isinstance(self.init, os.PathLike):
            object.__setattr__(self, "init", os.fspath(self.init))
        if not isinstance(self.init, str) and not callable(self.init):
            raise InputError(
                "init of a solver must be a name or a callable; pass latents to gprior.solve as "
                "init=latents"
            )
        check_perceptual(self.perceptual, type(self).__name__, self.has_perceptual)

    def _checked_steps(self) -> int | tuple[int, ...]:
        """Return the steps as one integer, or as one integer for each stage of the method."""
        default = next(f.default for f in fields(self) if f.name == "steps")
        staged = isinstance(self.steps, (tuple, list))
        steps = tuple(self.steps) if isinstance(self.steps, (tuple, list)) else (self.steps,)
        steps = tuple(integer("steps", n, least=0 if staged else 1) for n in steps)
        if sum(steps) < 1:
            raise InputError(f"steps must be positive in at least one stage, got {self.steps!r}")
        if not isinstance(default, tuple):
            if staged:
                raise InputError(f"steps must be one positive integer, got {self.steps!r}")
            return steps[0]
        if len(steps) == 1:
            steps = divided(steps[0], default)
        if len(steps) != len(default):
            raise InputError(
                f"steps must be one number or one for each of the {len(default)} stages, "
                f"got {self.steps!r}"
            )
        return steps

    def constants(self) -> dict[str, Any]:
        """Return the fields as values that JSON can store."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


def divided(total: int, proportions: tuple[int, ...]) -> tuple[int, ...]:
    """Return integers that sum to ``total`` and have nearly these proportions.

    >>> divided(400, (300, 200, 100, 100))
    (172, 114, 57, 57)
    """
    exact = [total * n / sum(proportions) for n in proportions]
    parts = [int(x) for x in exact]
    by_remainder = sorted(range(len(parts)), key=lambda k: parts[k] - exact[k])
    for k in by_remainder[: total - sum(parts)]:
        parts[k] += 1
    return tuple(parts)


def _checked(name: str, value: Any, default: Any) -> Any:
    """Return a constant, checked and converted to the type of its default."""
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise InputError(f"{name} must be True or False, got {value!r}")
        return value
    if isinstance(default, int):
        return integer(name, value, least=1 if name == "max_batch" else 0)
    if isinstance(default, float):
        return number(name, value, least=0)
    if isinstance(default, tuple) and default and isinstance(default[0], float):
        if not isinstance(value, (tuple, list)) or len(value) != len(default):
            raise InputError(f"{name} must be {len(default)} numbers, got {value!r}")
        return tuple(number(name, part, least=0) for part in value)
    return value


def _plain(value: Any) -> Any:
    """Return a value that strict JSON can store: for an object, the name of its type."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (int, float, str, type(None))) else type(value).__name__
