"""L-BFGS with a strong-Wolfe line search, one row after the other.

A line search decides from values of the loss how far to go. If rows shared it, it would couple
images. So torch's optimizer runs for each row alone, and every evaluation that its line search
asks for counts as a step.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from gprior.checks import InputError
from gprior.problem import Problem
from gprior.search.loop import Outcome, Watch, begin, descend, evaluate, reasons, step_of
from gprior.search.objective import Objective
from gprior.search.record import Record
from gprior.search.rows import Variables, copy, take
from gprior.search.space import Space

__all__ = ["minimise_by_lbfgs"]


class StopRow(Exception):  # noqa: N818
    """Ends a row's search from within its line search."""


def minimise_by_lbfgs(
    problem: Problem,
    space: Space,
    objective: Objective,
    start: Variables,
    steps: int,
    watch: Watch,
) -> Outcome:
    """Minimise the objective over a space without bounds, each row for itself.

    Parameters
    ----------
    problem, space, objective, start, watch
        As for `minimise`.
    steps : int
        Most evaluations of a row; it may also stop as ``"converged"``.

    Returns
    -------
    Outcome
        As from `minimise`.

    Raises
    ------
    InputError
        If the space is bounded, or draws random numbers: a line search can do with neither.
    """
    if space.bounded or space.draws(0.0):
        raise InputError(
            "L-BFGS needs a space without bounds and without random draws; take optimizer='adam'"
        )
    rows = torch.arange(len(problem), device=problem.image.device)
    return Outcome.join(
        [
            _minimise_row(problem.take(row), space, objective, take(start, row), steps, watch, row)
            for row in rows[:, None]
        ]
    )


def _minimise_row(
    problem: Problem,
    space: Space,
    objective: Objective,
    start: Variables,
    steps: int,
    watch: Watch,
    row: Tensor,
) -> Outcome:
    start, variables = begin(problem, space, start)
    variables = {k: v.requires_grad_() for k, v in copy(variables).items()}
    record = Record(1, steps, problem.prior.like)
    record.best = copy(variables)
    record.spend(space.entry)
    done = 0

    def closure() -> Tensor:
        nonlocal done
        if done == steps:
            raise StopRow
        step = step_of(problem, done, done / steps)
        iterate, loss, grads = descend(problem, space, objective, variables, start, step)
        criterion = problem.criterion(iterate.predicted, loss)
        record.spend(1)
        record.write(done, loss)
        record.keep(variables, criterion, loss)
        watch.progress(1)
        go_on = watch.after(done, row, loss, iterate.image)
        done += 1
        record.stop(reasons(problem, criterion, loss, grads, go_on))
        if not len(record.running):
            raise StopRow
        for name, x in variables.items():
            x.grad = grads[name].contiguous()
        return loss[0]

    optimizer = torch.optim.LBFGS(
        list(variables.values()),
        max_iter=steps,
        max_eval=steps,
        tolerance_grad=0.0,
        tolerance_change=1e-12,
        history_size=10,
        line_search_fn="strong_wolfe",
    )
    with contextlib.suppress(StopRow):
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    if len(record.running) and done < steps:
        record.stop(["converged"])
    return evaluate(problem, space, objective, record, start, steps)
