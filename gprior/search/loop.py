"""The one gradient loop of the package.

Every row has its own moments and step count, its own best iterate and its own reason to stop. Rows
that are done leave, and their neighbours go on unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from math import nan
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from gprior.priors import HasPhase
from gprior.problem import Problem
from gprior.randomness import normal
from gprior.search.latent_spaces import PhaseMap
from gprior.search.objective import Iterate, Objective, total
from gprior.search.optimizer import Optimizer
from gprior.search.passes import PASSES
from gprior.search.record import NON_FINITE, Record
from gprior.search.rows import Variables, copy, detach, join, take
from gprior.search.space import Space, Step, inputs_of

__all__ = ["Outcome", "Watch", "judgements", "minimise"]

JUDGE = 10  # steps between two judgements of the returned code, where a space draws


@dataclass(frozen=True)
class Watch:
    """Who follows a search.

    Attributes
    ----------
    progress : callable
        Called with the number of row-steps that were just done; for progress bars.
    callback : callable, optional
        Called after each step as ``callback(step, rows, loss, image)``, with the rows that still
        run. If it returns False, these rows stop.
    """

    progress: Callable[[float], object] = lambda n: None
    callback: Callable[[int, Tensor, Tensor, Tensor], object] | None = None

    def after(self, step: int, rows: Tensor, loss: Tensor, image: Tensor) -> bool:
        """Report a step; return whether the rows go on."""
        return self.callback is None or self.callback(step, rows, loss, image) is not False

    def take(self, rows: Tensor) -> Watch:
        """Return the watch of a search of some of the rows."""
        whole = self.callback
        if whole is None:
            return self
        return replace(
            self, callback=lambda step, own, *seen: whole(step, rows.to(own)[own], *seen)
        )


@dataclass(frozen=True, eq=False)
class Outcome:
    """Where a search ended, row by row.

    Attributes
    ----------
    code : dict
        The best code of each row, by the names of `inputs_of`.
    image : Tensor
        Its image (R, C, H, W).
    terms : dict
        Its weighted terms, each (R,); their sum is `loss`.
    loss, criterion : Tensor
        (R,), of the returned code.
    history : Tensor
        Loss at every step (R, steps); NaN after a row has stopped.
    reason : list of str
        Why each row stopped: ``"steps"``, ``"discrepancy"``, ``"callback"``, ``"non-finite"``, or
        for L-BFGS ``"converged"``.
    evaluations : Tensor
        Forward and backward passes per row (R,); a forward alone counts 1/3.
    start : dict
        Where each row started, with the class ``c`` where there are classes.
    diagnostics : dict
        What the space says about the code, each (R,).
    """

    code: Variables
    image: Tensor
    terms: dict[str, Tensor]
    loss: Tensor
    criterion: Tensor
    history: Tensor
    reason: list[str]
    evaluations: Tensor
    start: Variables
    diagnostics: Variables

    def rows(self) -> dict[str, Any]:
        """Return the fields, as rows that `gprior.search.rows` can take and join."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def take(self, rows: Tensor) -> Outcome:
        """Return some of the rows."""
        return Outcome(**take(self.rows(), rows))

    @classmethod
    def join(cls, parts: Sequence[Outcome]) -> Outcome:
        """Return the rows of all parts, one part after the other.

        Histories of different length are filled with NaN.
        """
        steps = max(part.history.shape[1] for part in parts)
        filled = [
            {
                **part.rows(),
                "history": pad(part.history, (0, steps - len(part.history[0])), value=nan),
            }
            for part in parts
        ]
        return cls(**join(filled))


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

    Where the space draws random numbers, the image of a step is not that of the code which would
    be returned. There, the returned code is judged for itself, every tenth step and at the end.

    Parameters
    ----------
    problem : Problem
        R rows.
    space : Space
        Where to search. A prior with an input ``phase`` is searched in it as well.
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
        All values are those of the returned code, evaluated once more.
    """
    watch = watch or Watch()
    if "phase" in problem.prior.inputs:
        space = space & PhaseMap(cast(HasPhase, problem.prior).phase_size)
    before = 0 if earlier is None else earlier.history.shape[1]
    start, variables = begin(problem, space, start, before)
    variables = space.project(variables, start, 0.0)
    record = Record(len(problem), steps, problem.prior.like)
    record.best = copy(variables)
    record.spend(space.entry)
    rows = Rows(problem, start, variables, optimizer.fresh(variables))
    if earlier is not None:
        rows = rows.take(record.stop([None if r == "steps" else r for r in earlier.reason]))
    for i in range(steps):
        if not len(record.running):
            break
        step = step_of(rows.problem, before + i, i / steps)
        iterate, loss, grads = descend(
            rows.problem, space, objective, detach(rows.variables, grad=True), rows.start, step
        )
        record.spend(1)
        record.write(i, loss)
        criterion = judge(space, objective, rows, iterate, loss, record, i, steps)
        watch.progress(len(loss))
        go_on = watch.after(before + i, record.running, loss, iterate.image)
        done = reasons(rows.problem, criterion, loss, grads, go_on)
        if i == steps - 1:
            record.stop(done)
            break
        t = (i + 1) / steps
        variables, state = optimizer.step(rows.variables, grads, rows.state, t)
        variables = space.project(variables, rows.start, t)
        rows = replace(rows, variables=variables, state=state)
        if any(done):
            rows = rows.take(record.stop(done))
    outcome = evaluate(problem, space, objective, record, start, before + steps)
    if earlier is None:
        return outcome
    return replace(
        outcome,
        history=torch.cat([earlier.history, outcome.history], 1),
        evaluations=outcome.evaluations + earlier.evaluations,
    )


@dataclass(frozen=True, eq=False)
class Rows:
    """The running rows of a gradient loop."""

    problem: Problem
    start: Variables
    variables: Variables
    state: dict[str, Variables]

    def take(self, places: Tensor) -> Rows:
        """Return some of the rows."""
        if len(places) == len(self.problem):
            return self
        state = take(self.state, places)
        return Rows(
            self.problem.take(places), take(self.start, places), take(self.variables, places), state
        )


def begin(
    problem: Problem, space: Space, start: Variables, before: int = 0
) -> tuple[Variables, Variables]:
    """Return the starting point as the space enters it, and the variables there."""
    start = space.enter(problem.prior, start)
    variables = space.initial(problem.prior, start, step_of(problem, before, 0.0))
    first = {f"first.{name}": v for name, v in copy(variables).items()}
    return {**start, **first}, variables


def step_of(problem: Problem, number: int, t: float) -> Step:
    """Return a step of the search, with draws from the keys of these rows."""

    def draw(name: str, shape: Sequence[int]) -> Tensor:
        return normal(problem.draw_keys(name, number), shape, problem.prior.like)

    def fixed(name: str, shape: Sequence[int]) -> Tensor:
        return normal(problem.draw_keys(name), shape, problem.prior.like)

    return Step(t, draw, fixed)


def descend(
    problem: Problem,
    space: Space,
    objective: Objective,
    variables: Variables,
    start: Variables,
    step: Step,
) -> tuple[Iterate, Tensor, Variables]:
    """Return the iterate, its loss (R,) and the gradients, at variables that ask for them."""
    passes = PASSES.get()
    with torch.enable_grad():
        inputs = space.decode(variables, start, step)
        image = passes.images(problem.prior, inputs)
        predicted = problem.measure(image)
        iterate = Iterate(problem, image, predicted, variables, start, inputs, step)
        loss = total(objective(iterate))
        slopes = passes.slopes(loss.sum(), list(variables.values()))
    seen = replace(iterate, image=image.detach(), predicted=[p.detach() for p in predicted])
    return seen, loss.detach(), dict(zip(variables, slopes, strict=True))


def judgements(steps: int, until: float = 1.0) -> int:
    """Return how often `minimise` judges the returned code of a space that draws before ``until``.

    >>> judgements(25), judgements(30, until=0.5)
    (4, 2)
    """
    return sum(judged(i, steps) and i / steps < until for i in range(steps))


def judged(i: int, steps: int) -> bool:
    """Return whether the returned code is judged at step i, where the space draws."""
    return i % JUDGE == 0 or i == steps - 1


def judge(
    space: Space,
    objective: Objective,
    rows: Rows,
    iterate: Iterate,
    loss: Tensor,
    record: Record,
    i: int,
    steps: int,
) -> Tensor:
    """Record the candidates of a step; return their criterion (r,), infinite where not judged."""
    if not space.draws(i / steps):
        criterion = rows.problem.criterion(iterate.predicted, loss)
    elif judged(i, steps):
        step = step_of(rows.problem, 0, 1.0)
        _, returned = render(rows.problem, space, rows.variables, rows.start, step)
        loss = total(objective(returned))
        criterion = rows.problem.criterion(returned.predicted, loss)
        record.spend(1 / 3)
    else:
        return torch.full_like(loss, torch.inf)
    record.keep(rows.variables, criterion, loss)
    return criterion


def reasons(
    problem: Problem, criterion: Tensor, loss: Tensor, grads: Variables, go_on: bool
) -> list[str | None]:
    """Return why each row stops after a step, or None where it goes on."""
    sound = (loss.isfinite() & finite(grads)).tolist()
    done = problem.finished(criterion).tolist()
    return [
        NON_FINITE if not ok else problem.rules[k].name if end else None if go_on else "callback"
        for k, (ok, end) in enumerate(zip(sound, done, strict=True))
    ]


def finite(grads: Variables) -> Tensor:
    """Return which rows have finite gradients only, (R,) bool."""
    return torch.stack([g.reshape(len(g), -1).isfinite().all(1) for g in grads.values()]).all(0)


@torch.no_grad()
def render(
    problem: Problem, space: Space, variables: Variables, start: Variables, step: Step
) -> tuple[Variables, Iterate]:
    """Return the code that would be returned, and its iterate, to be judged."""
    code = space.finish(variables, start, step)
    inputs = inputs_of(code)
    image = problem.prior(**inputs)
    return code, Iterate(problem, image, problem.measure(image), variables, start, inputs)


@torch.no_grad()
def evaluate(
    problem: Problem,
    space: Space,
    objective: Objective,
    record: Record,
    start: Variables,
    number: int,
) -> Outcome:
    """Evaluate the code that is returned, so that every value reported is that of this code."""
    variables, step = record.best, step_of(problem, number, 1.0)
    code, iterate = render(problem, space, variables, start, step)
    terms = objective(iterate)
    loss = total(terms)
    return Outcome(
        code=code,
        image=iterate.image,
        terms=terms,
        loss=loss,
        criterion=problem.criterion(iterate.predicted, loss),
        history=record.history,
        reason=record.reason,
        evaluations=record.evaluations + 1 / 3,
        start={k: v for k, v in start.items() if not k.startswith("first.")},
        diagnostics=space.diagnose(variables, code, step),
    )
