"""The one gradient loop of the package.

Every row has its own Adam moments and step count, its own best iterate and its own
reason to stop; rows that are done leave, and their neighbours go on unchanged.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from gprior.objective import Objective, Terms, total
from gprior.problem import Problem
from gprior.space import Space, Variables, detach, take

__all__ = ["Adam", "Outcome", "Watch", "minimise"]


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1), one step count per row.

    Attributes
    ----------
    lr : float or mapping
        Step size, or one per variable.
    betas : (float, float)
        Decay of the two moments.
    schedule : callable
        Fraction of the run in [0, 1) -> factor of the step size.
    """

    lr: float | Mapping[str, float]
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Callable[[float], float] = lambda t: 1.0
    eps: float = 1e-8

    def step(
        self, variables: Variables, grads: Variables, state: dict[str, Variables], t: float
    ) -> Variables:
        """Return the next variables and update the moments in ``state``, row by row."""
        b1, b2 = self.betas
        state["count"]["n"] += 1
        moved = {}
        for name, x in variables.items():
            n = state["count"]["n"].view(-1, *[1] * (x.ndim - 1))
            m, v, g = state["m"][name], state["v"][name], grads[name]
            m.mul_(b1).add_(g, alpha=1 - b1)
            v.mul_(b2).addcmul_(g, g, value=1 - b2)
            lr = self.lr if isinstance(self.lr, (int, float)) else self.lr[name]
            ahead = (m / (1 - b1**n)) / ((v / (1 - b2**n)).sqrt() + self.eps)
            moved[name] = x.detach() - lr * self.schedule(t) * ahead
        return moved

    @staticmethod
    def fresh(variables: Variables) -> dict[str, Variables]:
        """Return zero moments and counts for these rows."""
        first = next(iter(variables.values()))
        return {
            "m": {k: torch.zeros_like(v) for k, v in variables.items()},
            "v": {k: torch.zeros_like(v) for k, v in variables.items()},
            "count": {"n": torch.zeros(len(first), dtype=first.dtype, device=first.device)},
        }


@dataclass
class Watch:
    """Who looks on: called after each step with the rows still running.

    Attributes
    ----------
    tick : callable
        Number of row-steps done -> ignored; for progress bars.
    look : callable
        (step, row numbers, loss, image) -> ignored; for the user's callback.
    """

    tick: Callable[[float], object] = lambda n: None
    look: Callable[[int, Tensor, Tensor, Tensor], object] | None = None


@dataclass
class Outcome:
    """Where the loop ended, row by row.

    Attributes
    ----------
    code : dict
        The code of the best iterate of each row, by the names of `inputs_of`.
    image : Tensor
        Its image (R, C, H, W).
    terms : dict
        Its weighted terms, each (R,); their sum is `loss`.
    loss, criterion : Tensor
        (R,), evaluated at the returned iterate.
    history : Tensor
        Loss at every step (R, steps); NaN after a row has stopped.
    reason : list of str
        Why each row stopped: ``"steps"``, ``"discrepancy"`` or ``"non-finite"``.
    evaluations : Tensor
        Forward and backward passes per row (R,); a forward alone counts 1/3.
    start : dict
        Where each row started, with the class ``c`` where there are classes.
    """

    code: Variables
    image: Tensor
    terms: Terms
    loss: Tensor
    criterion: Tensor
    history: Tensor
    reason: list[str]
    evaluations: Tensor
    start: Variables

    def take(self, rows: Tensor) -> Outcome:
        """Return some of the rows."""

        def pick(value: Any) -> Any:
            if isinstance(value, dict):
                return {k: pick(v) for k, v in value.items()}
            if isinstance(value, list):
                return [value[i] for i in rows.tolist()]
            return value[rows.to(value.device)]

        return Outcome(**{f.name: pick(getattr(self, f.name)) for f in fields(self)})

    @classmethod
    def join(cls, parts: Sequence[Outcome]) -> Outcome:
        """Concatenate rows."""

        def cat(values: list[Any]) -> Any:
            if isinstance(values[0], dict):
                return {k: cat([v[k] for v in values]) for k in values[0]}
            if isinstance(values[0], list):
                return [item for value in values for item in value]
            return torch.cat(values)

        return cls(**{f.name: cat([getattr(p, f.name) for p in parts]) for f in fields(cls)})


def minimise(
    problem: Problem,
    space: Space,
    objective: Objective,
    start: Variables,
    steps: int,
    adam: Adam,
    watch: Watch | None = None,
) -> Outcome:
    """Minimise the objective over the space, each row for itself.

    Parameters
    ----------
    problem : Problem
        R rows.
    space : Space
        Where to search.
    objective : Objective
        What to minimise.
    start : dict
        Starting point (R, ...), see `Space.initial`.
    steps : int
        Iterates to evaluate; the best by the problem's criterion is returned.
    adam : Adam
        Step sizes.
    watch : Watch, optional
        Progress and callback.

    Returns
    -------
    Outcome
        All values are those of the returned iterate, evaluated once more.
    """
    R, watch = len(problem), watch or Watch()
    variables = space.project(space.initial(problem.prior, start))
    best = {k: v.detach().clone() for k, v in variables.items()}
    first = next(iter(variables.values()))
    record = torch.full((R,), torch.inf, dtype=first.dtype, device=first.device)
    history = torch.full((R, steps), torch.nan, dtype=first.dtype)
    reason = ["steps"] * R
    spent = torch.zeros(R, dtype=torch.float64)
    rows, own, begin = torch.arange(R, device=first.device), problem, start
    state = Adam.fresh(variables)

    for i in range(steps):
        variables = detach(variables, grad=True)
        with torch.enable_grad():
            image = own.prior(**space.decode(variables, begin))
            predicted = own.measure(image)
            loss = total(objective(own, variables, begin, predicted))
            slopes = torch.autograd.grad(loss.sum(), list(variables.values()))
        grads = dict(zip(variables, slopes, strict=True))
        loss, predicted = loss.detach(), [p.detach() for p in predicted]
        criterion = own.criterion(predicted, loss)
        spent[rows.cpu()] += 1
        history[rows.cpu(), i] = loss.cpu()

        better = (criterion < record[rows]) & loss.isfinite()
        record[rows[better]] = criterion[better]
        for name, x in variables.items():
            best[name][rows[better]] = x.detach()[better]

        watch.tick(len(rows))
        if watch.look is not None:
            watch.look(i, rows, loss, image.detach())
        broken = ~(loss.isfinite() & _finite(grads))
        done = own.finished(criterion) & ~broken
        for row in rows[done].tolist():
            reason[row] = "discrepancy"
        for row in rows[broken].tolist():
            reason[row] = "non-finite"
        if i == steps - 1:
            break
        variables = adam.step(variables, grads, state, (i + 1) / steps)
        variables = space.project(variables)
        leaving = done | broken
        if bool(leaving.any()):
            stay = (~leaving).nonzero()[:, 0]
            if not len(stay):
                break
            rows, own, begin = rows[stay], own.take(stay), take(begin, stay)
            variables = take(variables, stay)
            state = {k: take(v, stay) for k, v in state.items()}
    if "non-finite" in reason:
        count = reason.count("non-finite")
        warnings.warn(
            f"{count} of {R} rows met a non-finite value and returned their last good iterate; "
            "a smaller lr usually prevents it",
            RuntimeWarning,
            stacklevel=2,
        )
    return _evaluate(problem, space, objective, best, start, history, reason, spent)


@torch.no_grad()
def _evaluate(
    problem: Problem,
    space: Space,
    objective: Objective,
    variables: Variables,
    start: Variables,
    history: Tensor,
    reason: list[str],
    spent: Tensor,
) -> Outcome:
    """Evaluate the iterate that is returned, so that what is reported is its own."""
    image = problem.prior(**space.decode(variables, start))
    predicted = problem.measure(image)
    terms = objective(problem, variables, start, predicted)
    loss = total(terms)
    criterion = problem.criterion(predicted, loss)
    code = space.finish(variables, start)
    return Outcome(code, image, terms, loss, criterion, history, reason, spent + 1 / 3, start)


def _finite(grads: Variables) -> Tensor:
    """Return which rows have finite gradients only, (R,) bool."""
    return torch.stack([g.flatten(1).isfinite().all(1) for g in grads.values()]).all(0)
