"""L-BFGS with a strong-Wolfe line search, one row after the other.

A line search decides from values of the loss how far to go: shared between rows it would
couple images. So each row runs torch's optimizer for itself, and every evaluation that its
line search asks for counts as a step.
"""

from __future__ import annotations

import contextlib
import warnings

import torch
from torch import Tensor

from gprior.problem import Problem
from gprior.search.loop import Outcome, Watch, descend, evaluate, finite, moment
from gprior.search.objective import Objective
from gprior.search.space import Space, Variables, take

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
    """Minimise the objective over a space without constraints, each row for itself.

    Arguments and result are those of `gprior.search.minimise`; ``steps`` bounds the
    evaluations of a row, and a row may also stop as ``"converged"``.
    """
    rows = torch.arange(len(problem), device=problem.image.device)
    parts = [
        _row(problem.take(row), space, objective, take(start, row), steps, watch, row)
        for row in rows.split(1)  # type: ignore[no-untyped-call]
    ]
    lost = sum(part.reason == ["non-finite"] for part in parts)
    if lost:
        warnings.warn(
            f"{lost} of {len(rows)} rows met a non-finite value and returned their last good "
            "iterate; use optimizer='adam' for them",
            RuntimeWarning,
            stacklevel=2,
        )
    return Outcome.join(parts)


def _row(
    problem: Problem,
    space: Space,
    objective: Objective,
    start: Variables,
    steps: int,
    watch: Watch,
    row: Tensor,
) -> Outcome:
    start = space.enter(problem.prior, start)
    variables = space.initial(problem.prior, start, moment(problem, 0, 0.0))
    variables = {k: v.detach().clone().requires_grad_() for k, v in variables.items()}
    best = {k: v.detach().clone() for k, v in variables.items()}
    kind = problem.prior.like.dtype
    history = torch.full((1, steps), torch.nan, dtype=kind, device="cpu")
    done, record, reason = 0, float("inf"), "converged"

    def closure() -> Tensor:
        nonlocal best, done, record, reason
        if done == steps:
            reason = "steps"
            raise StopRow
        at = moment(problem, done, done / steps)
        image, predicted, loss, grads = descend(problem, space, objective, variables, start, at)
        criterion = problem.criterion(predicted, loss)
        history[0, done] = loss.cpu()
        sound = bool(loss.isfinite() & finite(grads))
        if bool(loss.isfinite()) and float(criterion) < record:
            record = float(criterion)
            best = {k: v.detach().clone() for k, v in variables.items()}
        watch.tick(1)
        if watch.look is not None:
            watch.look(done, row, loss, image)
        done += 1
        if not sound or bool(problem.finished(criterion)):
            reason = "discrepancy" if sound else "non-finite"
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
    reason = "steps" if done == steps and reason == "converged" else reason
    spent = torch.full((1,), done + space.entry, dtype=torch.float64, device="cpu")
    return evaluate(problem, space, objective, best, start, history, [reason], spent)
