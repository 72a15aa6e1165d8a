"""Rules that move variables down their gradients, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from gprior.search.rows import Variables

__all__ = ["Adam", "Optimizer", "rate"]

State = dict[str, Variables]
PHASE_LR = 0.05


class Optimizer(Protocol):
    """A rule that moves variables down their gradients, row by row."""

    def step(
        self, variables: Variables, grads: Variables, state: State, t: float
    ) -> tuple[Variables, State]:
        """Return the next variables and the next state, at the fraction t of the run."""

    def fresh(self, variables: Variables) -> State:
        """Return the state before the first step, every entry (R, ...)."""


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1), with one step count per row.

    Attributes
    ----------
    lr : float or mapping
        Step size, or one per variable (by its name up to the first dot).
    betas : (float, float)
        Decay of the two moments.
    schedule : callable
        Fraction of the run in [0, 1) -> factor of the step size.
    eps : float
        Added to the root of the second moment.
    """

    lr: float | Mapping[str, float]
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Callable[[float], float] = lambda t: 1.0
    eps: float = 1e-8

    def step(
        self, variables: Variables, grads: Variables, state: State, t: float
    ) -> tuple[Variables, State]:
        """Return the next variables, and the state with its moments updated in place."""
        b1, b2 = self.betas
        state["count"]["n"] += 1
        moved = {}
        for name, x in variables.items():
            n = state["count"]["n"].view(-1, *[1] * (x.ndim - 1))
            m, v, g = state["m"][name], state["v"][name], grads[name]
            m.mul_(b1).add_(g, alpha=1 - b1)
            v.mul_(b2).addcmul_(g, g, value=1 - b2)
            direction = (m / (1 - b1**n)) / ((v / (1 - b2**n)).sqrt() + self.eps)
            moved[name] = x.detach() - rate(self.lr, name) * self.schedule(t) * direction
        return moved, state

    def fresh(self, variables: Variables) -> State:
        """Return zero moments and counts for these rows."""
        first = next(iter(variables.values()))
        return {
            "m": {k: torch.zeros_like(v) for k, v in variables.items()},
            "v": {k: torch.zeros_like(v) for k, v in variables.items()},
            "count": {"n": torch.zeros(len(first), dtype=first.dtype, device=first.device)},
        }


def rate(lr: float | Mapping[str, float], name: str) -> float:
    """Return the step size of a variable.

    A phase has its own, in radians, in every method: the methods state theirs for latents.
    """
    if name == "phase":
        return PHASE_LR
    return lr if isinstance(lr, (int, float)) else lr[name.split(".")[0]]
