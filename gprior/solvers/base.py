"""What a solver is: a frozen dataclass of a paper's constants, and `run`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from torch import Tensor

from gprior.checks import InputError
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
    minimise,
    starting_point,
    tried,
)

__all__ = ["Solver"]


@dataclass(frozen=True)
class Solver:
    """A reconstruction method.

    Parameters
    ----------
    steps : int or tuple of int
        Iterates of the gradient loop; where a method has several stages, of each of them, or
        one number that is shared out in the paper's proportions.
    init : str, tensor, mapping or callable
        Starting point: ``"mean"``, ``"random"``, ``"best-of:N"``, latents, or an encoder
        (pseudo-inverse image -> latents).
    perceptual : bool, str, callable or None
        None applies the perceptual term where the measurement is an image; True insists;
        False drops it. A name in `gprior.distances.NAMES`, a `gprior.Perceptual` or a
        callable (images in [0, 1] -> list of feature maps) insists and chooses the features.
    max_batch : int
        Rows (images times restarts) through the generator at once; it changes memory and
        speed, never the answer.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    has_perceptual: ClassVar[bool] = True  # where it is False, ``perceptual`` is refused
    steps: int | tuple[int, ...] = 1000
    init: Init = "mean"
    perceptual: bool | str | Callable[..., Any] | None = None
    max_batch: int = 32

    def run(self, problem: Problem, c: Tensor | None, watch: Watch) -> Outcome:
        """Solve every row of the problem.

        Parameters
        ----------
        problem : Problem
            R rows.
        c : Tensor or None
            Class vectors (R, c_dim); None where there are none, or where they are to be
            found.
        watch : Watch
            Progress and callback.
        """
        raise NotImplementedError

    def search(
        self,
        problem: Problem,
        c: Tensor | None,
        watch: Watch,
        objective: Objective,
        *stages: tuple[Space, Optimizer],
    ) -> Outcome:
        """Minimise the objective over one space after the other, from where `init` says.

        A stage starts from the best code of the one before; one of no steps is left out.
        """
        start, cost = self.begin(problem, c, objective, stages[0][0])
        outcome = None
        for (space, optimizer), steps in zip(stages, self.stages, strict=True):
            if steps:
                outcome = minimise(
                    problem, space, objective, start, steps, optimizer, watch, outcome
                )
                start = {**outcome.start, **outcome.code}
        if outcome is None:
            raise InputError(f"steps must be positive in one stage at least, got {self.steps}")
        outcome.evaluations += cost
        return outcome

    def begin(
        self, problem: Problem, c: Tensor | None, objective: Objective, space: Space
    ) -> tuple[Variables, Tensor]:
        """Return where `init` says that a search of this space starts, and what that cost."""
        if space.from_z and isinstance(self.init, Mapping) and "z" not in self.init:
            raise InputError(
                f"{type(self).__name__} starts from z, but init has {sorted(self.init)}; give z"
            )
        return starting_point(problem, objective, self.init, c, self.max_batch)

    def on(self, prior: Prior) -> Solver:
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

        The iterates, the candidates, and what each stage returns once more.
        """
        ends = sum(n > 0 for n in self.stages)
        return self.total + ends / 3 + tried(self.init, classes) / 3

    def within(self, budget: float, restarts: int, classes: int) -> Solver:
        """Return this solver with as many steps as fit into a budget.

        The unit is one forward and backward pass of the generator for one image;
        candidates, restarts and the last evaluation count.

        Raises
        ------
        ValueError
            If the budget does not pay for a single step.
        """
        least = restarts * replace(self, steps=1).cost(classes)
        if not least - 1e-9 <= budget < math.inf:
            raise InputError(
                f"budget must be at least {least:.1f} evaluations for {restarts} restart(s) with "
                f"init={self.init!r} and finite, got {budget}; raise it, or choose a cheaper init"
            )
        steps = int(budget / restarts + 1e-9)
        while restarts * replace(self, steps=steps).cost(classes) > budget + 1e-9:
            steps -= 1
        return replace(self, steps=steps)

    def __post_init__(self) -> None:
        usual = next(f.default for f in fields(self) if f.name == "steps")
        given = self.steps if isinstance(self.steps, (tuple, list)) else (self.steps,)
        if not all(is_whole(n) and n >= 0 for n in given) or sum(given) < 1:
            raise InputError(f"steps must be a positive integer, got {self.steps!r}")
        if isinstance(usual, tuple):
            if len(given) == 1:
                given = shared_out(given[0], usual)
            if len(given) != len(usual):
                raise InputError(
                    f"steps must be one number or one for each of the {len(usual)} stages, "
                    f"got {self.steps!r}"
                )
            object.__setattr__(self, "steps", tuple(given))
        elif len(given) != 1 or isinstance(self.steps, (tuple, list)):
            raise InputError(f"steps must be one positive integer, got {self.steps!r}")
        if not is_whole(self.max_batch) or self.max_batch < 1:
            raise InputError(f"max_batch must be a positive integer, got {self.max_batch!r}")
        check_perceptual(self.perceptual, type(self).__name__, self.has_perceptual)

    def constants(self) -> dict[str, Any]:
        """Return the fields as JSON values, for records."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


def shared_out(total: int, usual: tuple[int, ...]) -> tuple[int, ...]:
    """Return whole numbers that sum to ``total``, in proportion to ``usual``.

    >>> shared_out(400, (300, 200, 100, 100))
    (172, 114, 57, 57)
    """
    exact = [total * n / sum(usual) for n in usual]
    found = [int(x) for x in exact]
    short = sorted(range(len(usual)), key=lambda k: found[k] - exact[k])
    for k in short[: total - sum(found)]:
        found[k] += 1
    return tuple(found)


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer, which a bool is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """Return a value as strict JSON has it; a network or a tensor by the name of its type."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (int, float, str, type(None))) else type(value).__name__
