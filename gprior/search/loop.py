"""The one gradient loop of the package.

Every row has its own Adam moments and step count, its own best iterate and its own
reason to stop; rows that are done leave, and their neighbours go on unchanged.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from gprior.problem import Leaves, Problem
from gprior.randomness import normal
from gprior.search.objective import Objective, Terms, total
from gprior.search.space import Moment, Space, Variables, detach, inputs_of, take

__all__ = ["Adam", "Optimizer", "Outcome", "Watch", "minimise"]


class Optimizer(Protocol):
    """A rule that moves variables down their gradients, row by row."""

    def step(
        self, variables: Variables, grads: Variables, state: dict[str, Variables], t: float
    ) -> Variables:
        """Return the next variables and update ``state``, at the fraction t of the run."""

    def fresh(self, variables: Variables) -> dict[str, Variables]:
        """Return the state before the first step, every entry (R, ...)."""


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1), one step count per row.

    Attributes
    ----------
    lr : float or mapping
        Step size, or one per variable (by its name up to the first dot).
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
            ahead = (m / (1 - b1**n)) / ((v / (1 - b2**n)).sqrt() + self.eps)
            moved[name] = x.detach() - rate(self.lr, name) * self.schedule(t) * ahead
        return moved

    def fresh(self, variables: Variables) -> dict[str, Variables]:
        """Return zero moments and counts for these rows."""
        first = next(iter(variables.values()))
        return {
            "m": {k: torch.zeros_like(v) for k, v in variables.items()},
            "v": {k: torch.zeros_like(v) for k, v in variables.items()},
            "count": {"n": torch.zeros(len(first), dtype=first.dtype, device=first.device)},
        }


def rate(lr: float | Mapping[str, float], name: str) -> float:
    """Return the step size of a variable."""
    return lr if isinstance(lr, (int, float)) else lr[name.split(".")[0]]


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
        Why each row stopped: ``"steps"``, ``"discrepancy"``, ``"non-finite"``, or for
        L-BFGS ``"converged"``.
    evaluations : Tensor
        Forward and backward passes per row (R,); a forward alone counts 1/3.
    start : dict
        Where each row started, with the class ``c`` where there are classes.
    diagnostics : dict
        What the space says about the code, each (R,).
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
    diagnostics: Variables

    @property
    def done(self) -> Tensor:
        """Rows that stopped before their steps were over, (R,) bool."""
        return torch.tensor([r != "steps" for r in self.reason], device=self.loss.device)

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
    optimizer: Optimizer,
    watch: Watch | None = None,
    earlier: Outcome | None = None,
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
    optimizer : Optimizer
        How to step.
    watch : Watch, optional
        Progress and callback.
    earlier : Outcome, optional
        The stage before: rows that it stopped take no more steps, and its history and
        evaluations are included.

    Returns
    -------
    Outcome
        All values are those of the returned iterate, evaluated once more.
    """
    R, watch = len(problem), watch or Watch()
    before = 0 if earlier is None else earlier.history.shape[1]
    start = space.enter(problem.prior, start)
    variables = space.initial(problem.prior, start, moment(problem, before, 0.0))
    start = {**start, **{f"first.{k}": v.detach().clone() for k, v in variables.items()}}
    variables = space.project(variables, start, 0.0)
    best = {k: v.detach().clone() for k, v in variables.items()}
    first = next(iter(variables.values()))
    record = torch.full((R,), torch.inf, dtype=first.dtype, device=first.device)
    history = torch.full((R, steps), torch.nan, dtype=first.dtype, device="cpu")
    reason = ["steps"] * R if earlier is None else list(earlier.reason)
    spent = torch.full((R,), space.entry, dtype=torch.float64, device="cpu")
    rows, own, begin = torch.arange(R, device=first.device), problem, start
    state = optimizer.fresh(variables)

    def leave(leaving: Tensor) -> bool:
        """Let some of the running rows go; return whether any are left."""
        nonlocal rows, own, begin, variables, state
        if bool(leaving.any()):
            stay = (~leaving).nonzero()[:, 0]
            rows, own, begin = rows[stay], own.take(stay), take(begin, stay)
            variables = take(variables, stay)
            state = {k: take(v, stay) for k, v in state.items()}
        return len(rows) > 0

    running = earlier is None or leave(earlier.done)
    for i in range(steps):
        if not running:
            break
        at = moment(own, before + i, i / steps)
        variables = detach(variables, grad=True)
        image, predicted, loss, grads = descend(own, space, objective, variables, begin, at)
        criterion = own.criterion(predicted, loss)
        spent[rows.cpu()] += 1
        history[rows.cpu(), i] = loss.cpu()

        better = (criterion < record[rows]) & loss.isfinite()
        record[rows[better]] = criterion[better]
        for name, x in variables.items():
            best[name][rows[better]] = x.detach()[better]

        watch.tick(len(rows))
        if watch.look is not None:
            watch.look(before + i, rows, loss, image)
        broken = ~(loss.isfinite() & finite(grads))
        done = own.finished(criterion) & ~broken
        for row in rows[done].tolist():
            reason[row] = "discrepancy"
        for row in rows[broken].tolist():
            reason[row] = "non-finite"
        if i == steps - 1:
            break
        t = (i + 1) / steps
        variables = space.project(optimizer.step(variables, grads, state, t), begin, t)
        running = leave(done | broken)
    lost = reason.count("non-finite") - (earlier.reason.count("non-finite") if earlier else 0)
    if lost:
        warnings.warn(
            f"{lost} of {R} rows met a non-finite value and returned their last good iterate; "
            "a smaller lr usually prevents it",
            RuntimeWarning,
            stacklevel=2,
        )
    if earlier is not None:
        history = torch.cat([earlier.history, history], 1)
        spent = spent + earlier.evaluations
    return evaluate(problem, space, objective, best, start, history, reason, spent)


def moment(problem: Problem, step: int, t: float) -> Moment:
    """Return a step of the search, with draws from the keys of these rows."""

    def draw(name: str, shape: Sequence[int]) -> Tensor:
        return normal(problem.draw_keys(name, step), shape, problem.prior.like)

    return Moment(t, draw)


def descend(
    problem: Problem,
    space: Space,
    objective: Objective,
    variables: Variables,
    start: Variables,
    at: Moment,
) -> tuple[Tensor, Leaves, Tensor, Variables]:
    """Return image, measurements, loss (R,) and gradients at variables that ask for them."""
    with torch.enable_grad():
        inputs = space.decode(variables, start, at)
        image = problem.prior(**inputs)
        seen = image
        if sigma := objective.clip_noise:
            seen = (image + sigma * at.draw("clip-noise", image.shape[1:])).clamp(0, 1)
        predicted = problem.measure(seen)
        loss = total(objective(problem, variables, start, inputs, predicted))
        slopes = torch.autograd.grad(
            loss.sum(), list(variables.values()), materialize_grads=True
        )
    grads = dict(zip(variables, slopes, strict=True))
    return image.detach(), [p.detach() for p in predicted], loss.detach(), grads


@torch.no_grad()
def evaluate(
    problem: Problem,
    space: Space,
    objective: Objective,
    variables: Variables,
    start: Variables,
    history: Tensor,
    reason: list[str],
    spent: Tensor,
) -> Outcome:
    """Evaluate the code that is returned, so that what is reported is its own."""
    at = moment(problem, history.shape[1], 1.0)
    code = space.finish(variables, start, at)
    inputs = inputs_of(code)
    image = problem.prior(**inputs)
    predicted = problem.measure(image)
    terms = objective(problem, variables, start, inputs, predicted)
    loss = total(terms)
    return Outcome(
        code=code,
        image=image,
        terms=terms,
        loss=loss,
        criterion=problem.criterion(predicted, loss),
        history=history,
        reason=reason,
        evaluations=spent + 1 / 3,
        start={k: v for k, v in start.items() if not k.startswith("first.")},
        diagnostics=space.diagnose(variables, code, at),
    )


def finite(grads: Variables) -> Tensor:
    """Return which rows have finite gradients only, (R,) bool."""
    return torch.stack([g.flatten(1).isfinite().all(1) for g in grads.values()]).all(0)
