"""What a solver is: a frozen dataclass of a paper's constants, and `run`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from torch import Tensor

from gprior.checks import InputError, integer, number
from gprior.distances import check_perceptual
from gprior.priors import Prior
from gprior.problem import Problem
from gprior.search import (
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

__all__ = ["Solver"]


@dataclass(frozen=True)
class Solver:
    """A reconstruction method: constants alone, and nothing that belongs to a row.

    Parameters
    ----------
    steps : int or tuple of int
        Iterates of the gradient loop. Where a method has several stages: of each of them, or one
        number that is divided in the paper's proportions.
    init : str or callable
        Starting point: ``"mean"``, ``"random"``, ``"best-of:N"``, an encoder (pseudo-inverse image
        -> latents), or ``"latents"`` for those that `gprior.solve` was given.
    perceptual : bool, str, callable or None
        None applies the perceptual term where the measurement is an image; True insists on it;
        False drops it. A name in `gprior.distances.NAMES`, a `gprior.Perceptual` or a callable
        (images in [0, 1] -> list of feature maps) insists on it and chooses the features.
    max_batch : int
        Rows (images times restarts) through the generator at once. It changes memory and speed,
        never the answer.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    has_perceptual: ClassVar[bool] = True  # where it is False, ``perceptual`` is refused
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
            Progress and callback.
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
        """Minimise the objective over one space after the other, from where `init` says.

        A stage starts from the best code of the one before. A stage of no steps is left out.

        Parameters
        ----------
        problem, watch
            As for `run`.
        objective : Objective
            What to minimise.
        *stages : (Space, Optimizer)
            Where and how.
        candidates_by : Objective, optional
            What chooses between candidates of the starting point; None is ``objective``. Only its
            data terms count.
        """
        start, cost = self.begin(problem, candidates_by or objective, stages[0][0])
        outcome = None
        for (space, optimizer), steps in zip(stages, self.stages, strict=True):
            if steps:
                outcome = minimise(
                    problem, space, objective, start, steps, optimizer, watch, outcome
                )
                start = {**outcome.start, **outcome.code}
        if outcome is None:
            raise InputError(f"steps must be positive in one stage at least, got {self.steps}")
        return replace(outcome, evaluations=outcome.evaluations + cost)

    def begin(
        self, problem: Problem, objective: Objective, space: Space
    ) -> tuple[Variables, Tensor]:
        """Return where `init` says that a search of this space starts, and what that cost."""
        given = problem.latents
        if space.from_z and given is not None and "z" not in given:
            raise InputError(
                f"{type(self).__name__} starts from z, but init has {sorted(given)}; give z"
            )
        return starting_point(problem, objective, self.init, self.max_batch)

    def render(self, prior: Prior, code: Variables) -> Tensor:
        """Return the images (B, C, H, W) of a code, such as ``Result.latents``."""
        x: Tensor = prior(**inputs_of(code))
        return x

    def for_prior(self, prior: Prior) -> Solver:
        """Return this solver with what it leaves to the prior filled in; here nothing."""
        return self

    @property
    def members(self) -> int:
        """Candidates that a row sends through the generator at once."""
        return 1

    def required(self) -> frozenset[str]:
        """Return the prior's inputs that the method needs with these constants."""
        return self.needs

    @property
    def stages(self) -> tuple[int, ...]:
        """Steps of each stage."""
        return self.steps if isinstance(self.steps, tuple) else (self.steps,)

    @property
    def total(self) -> int:
        """Steps of all stages."""
        return sum(self.stages)

    def cost(self, classes: int) -> float:
        """Return the evaluations of one restart of one image.

        The iterates, the candidates, and one evaluation of what each stage returns.
        """
        ends = sum(n > 0 for n in self.stages)
        return self.total + ends / 3 + tried(self.init, classes) / 3

    def with_budget(self, budget: float, restarts: int, classes: int) -> Solver:
        """Return this solver with as many steps as fit into a budget.

        The unit is one forward and backward pass of the generator for one image. Candidates,
        restarts and the last evaluation count.

        Raises
        ------
        InputError
            If the budget does not pay for a single step.
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
        if not isinstance(self.init, str) and not callable(self.init):
            raise InputError(
                "init of a solver must be a name or a callable; give latents to gprior.solve, "
                "as init=latents"
            )
        check_perceptual(self.perceptual, type(self).__name__, self.has_perceptual)

    def _checked_steps(self) -> int | tuple[int, ...]:
        usual = next(f.default for f in fields(self) if f.name == "steps")
        staged = isinstance(self.steps, (tuple, list))
        given = tuple(self.steps) if isinstance(self.steps, (tuple, list)) else (self.steps,)
        given = tuple(integer("steps", n, least=0 if staged else 1) for n in given)
        if sum(given) < 1:
            raise InputError(f"steps must be positive in one stage at least, got {self.steps!r}")
        if not isinstance(usual, tuple):
            if staged:
                raise InputError(f"steps must be one positive integer, got {self.steps!r}")
            return given[0]
        if len(given) == 1:
            given = divided(given[0], usual)
        if len(given) != len(usual):
            raise InputError(
                f"steps must be one number or one for each of the {len(usual)} stages, "
                f"got {self.steps!r}"
            )
        return given

    def constants(self) -> dict[str, Any]:
        """Return the fields as JSON values, for records."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


def divided(total: int, usual: tuple[int, ...]) -> tuple[int, ...]:
    """Return integers that sum to ``total``, in proportion to ``usual``.

    >>> divided(400, (300, 200, 100, 100))
    (172, 114, 57, 57)
    """
    exact = [total * n / sum(usual) for n in usual]
    parts = [int(x) for x in exact]
    short = sorted(range(len(usual)), key=lambda k: parts[k] - exact[k])
    for k in short[: total - sum(parts)]:
        parts[k] += 1
    return tuple(parts)


def _checked(name: str, value: Any, default: Any) -> Any:
    """Return a constant as a Python number of the kind that its default has."""
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
    """Return a value as strict JSON has it; a network or a function by the name of its type."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (int, float, str, type(None))) else type(value).__name__
