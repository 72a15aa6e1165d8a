"""What a solver is: a frozen dataclass of a paper's constants, and `run`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from torch import Tensor

from gprior.initial import Init, starting_point, tried
from gprior.loop import Adam, Outcome, Watch, minimise
from gprior.objective import Objective
from gprior.problem import Problem
from gprior.space import Space

__all__ = ["Solver"]


@dataclass(frozen=True)
class Solver:
    """A reconstruction method.

    Parameters
    ----------
    steps : int
        Iterates of the gradient loop.
    init : str, tensor, mapping or callable
        Starting point: ``"mean"``, ``"random"``, ``"best-of:N"``, latents, or an encoder
        (pseudo-inverse image -> latents).
    perceptual : bool, callable or None
        None applies the perceptual term where the measurement is an image; True insists;
        False drops it; a callable (images in [0, 1] -> list of feature maps) replaces the
        features.
    max_batch : int
        Rows (images times restarts) through the generator at once; it changes memory and
        speed, never the answer.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    steps: int = 1000
    init: Init = "mean"
    perceptual: bool | Callable[..., Any] | None = None
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
        space: Space,
        objective: Objective,
        adam: Adam,
    ) -> Outcome:
        """Minimise the objective over the space, from where `init` says."""
        start, cost = starting_point(problem, objective, self.init, c, self.max_batch)
        outcome = minimise(problem, space, objective, start, self.steps, adam, watch)
        outcome.evaluations += cost
        return outcome

    def cost(self, classes: int) -> float:
        """Return the evaluations of one restart of one image."""
        return self.steps + 1 / 3 + tried(self.init, classes) / 3

    def within(self, budget: float, restarts: int, classes: int) -> Solver:
        """Return this solver with as many steps as fit into a budget.

        The unit is one forward and backward pass of the generator for one image;
        candidates, restarts and the last evaluation count.

        Raises
        ------
        ValueError
            If the budget does not pay for a single step.
        """
        fixed = replace(self, steps=0).cost(classes)
        steps = budget / restarts - fixed + 1e-9
        if not 1 <= steps < math.inf:
            least = restarts * (fixed + 1)
            raise ValueError(
                f"budget must be at least {least:.1f} evaluations for {restarts} restart(s) with "
                f"init={self.init!r} and finite, got {budget}; raise it, or choose a cheaper init"
            )
        return replace(self, steps=int(steps))

    def __post_init__(self) -> None:
        for name in ("steps", "max_batch"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < (0 if name == "steps" else 1):
                raise ValueError(f"{name} must be a positive integer, got {value!r}")

    def constants(self) -> dict[str, Any]:
        """Return the fields as JSON values, for records."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


def _plain(value: Any) -> Any:
    """Return a value as strict JSON has it; a network or a tensor by the name of its type."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (int, float, str, type(None))) else type(value).__name__
