"""What `solve` and `tune` share: running rows, fine-tuning, the correction."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gprior.checks import InputError
from gprior.distances import choose
from gprior.priors import TunedWeights
from gprior.problem import PerceptualTerm, Problem
from gprior.result import Result, by_image
from gprior.search import NON_FINITE, Corrected, Outcome, Watch, correct, misfit, trust_in
from gprior.solvers import Solver, Tuning

__all__ = [
    "CORRECTIONS", "DEFAULT", "Callback", "check_correction", "corrected", "perceptual_term",
    "run_rows", "tuned", "warn_of_lost",
]  # fmt: skip

Callback = Callable[[int, Tensor, Tensor, Tensor], Any]
DEFAULT = "default"  # the correction that belongs to the method
CORRECTIONS = (DEFAULT, "auto", "tv", None)


def check_correction(correction: str | None) -> None:
    """Refuse an unknown kind of correction."""
    if correction not in CORRECTIONS:
        raise InputError(f"correction must be one of {CORRECTIONS}, got {correction!r}")


def perceptual_term(method: Solver, problem: Problem) -> PerceptualTerm | None:
    """Return the perceptual distance where it applies: between measurements that are images."""
    wanted, y = method.perceptual, problem.y
    if wanted is False or not method.has_perceptual:
        return None
    if wanted is None and not problem.forward.measures_images:
        return None
    if len(y) != 1 or y[0].ndim != 4 or y[0].is_complex():
        if wanted is None:
            return None
        raise InputError("perceptual needs a measurement that is one batch of images")
    chosen = choose(wanted, problem.prior)
    return None if chosen is None else PerceptualTerm(*chosen)


def run_rows(
    problem: Problem, method: Solver, progress: bool, callback: Callback | None
) -> tuple[Outcome, int]:
    """Run the rows in parts of ``max_batch``, halved where a GPU runs out of memory.

    Also return the size of a part that the memory was enough for.
    """
    from tqdm import tqdm

    R, size, parts, first, stopped = len(problem), method.max_batch, [], 0, False
    total = R * method.total
    with tqdm(total=total, disable=not progress, unit="step", smoothing=0.05) as bar:
        while first < R:
            rows = torch.arange(first, min(first + size, R), device=problem.image.device)
            before = bar.n

            def report(step: int, row: Tensor, *values: Tensor, first: int = first) -> bool:
                nonlocal stopped
                if callback is not None and not stopped:
                    stopped = callback(step, row + first, *values) is False
                return not stopped

            try:
                part = problem.take(rows).prepared()
                parts.append(replace(method, max_batch=size).run(part, Watch(bar.update, report)))
            except torch.cuda.OutOfMemoryError:
                size = min(size, len(rows) * method.members) // 2
                if size == 0:
                    raise
                torch.cuda.empty_cache()
                bar.update(before - bar.n)
                continue
            first += len(rows)
        bar.update(total - bar.n)
    return Outcome.join(parts), size


def tuned(
    result: Result,
    problem: Problem,
    restarts: int,
    tuning: Tuning,
    progress: bool,
    callback: Callback | None,
) -> Result:
    """Return the result with generators that are tuned to its images, before the correction."""
    problem = problem.take(torch.arange(0, len(problem), restarts, device=problem.image.device))
    like = problem.prior.like
    start = {name: v.to(like) for name, v in result.latents.items()}
    belief = result.diagnostics.get("trust")
    if belief is None:
        belief = trust_in(problem, result.generated.to(like))
    term = perceptual_term(tuning, problem)
    problem = replace(problem, latents=start, perceptual=term, maps=None)

    def report(step: int, rows: Tensor, *values: Tensor) -> Any:  # row // restarts is the image
        return None if callback is None else callback(step, rows * restarts, *values)

    outcome, _ = run_rows(problem, tuning, progress, report)
    weights = {k[8:]: v for k, v in outcome.code.items() if k.startswith("weights.")}
    used = term is not None and "perceptual" in outcome.terms
    return replace(
        result,
        x=outcome.image,
        generated=outcome.image,
        latents={k: v for k, v in outcome.code.items() if not k.startswith("weights.")},
        weights=TunedWeights(problem.prior.digest(), weights),
        loss=outcome.loss,
        terms=outcome.terms,
        criterion=outcome.criterion,
        history=outcome.history,
        reason=outcome.reason,
        evaluations=result.evaluations + outcome.evaluations.to(result.evaluations),
        stop=[rule.name for rule in problem.rules],
        diagnostics={**result.diagnostics, **outcome.diagnostics, "trust": belief.to(like)},
        solver={**result.solver, "tune": tuning.constants()},
        perceptual=used,
        features=term.distance.name if term is not None and used else None,
        correction=None,
        prior_weight=None,
    )


def corrected(
    result: Result, problem: Problem, restarts: int, kind: str | None, at_once: int
) -> Result:
    """Return the result with its misfit, and with corrected images if a correction is wanted."""
    per_row = result.restarts is not None  # else one row for each image
    every = torch.arange(len(problem), device=problem.image.device)
    images = result.x.flatten(0, 1) if per_row else result.x
    belief, in_range = result.diagnostics.get("trust"), result.diagnostics.get("in range")
    sizes: list[Tensor] = []
    repaired: list[Corrected] = []
    for rows in every[:: 1 if per_row else restarts].split(at_once):  # type: ignore[no-untyped-call]
        part, here = problem.take(rows), slice(len(torch.cat(sizes)) if sizes else 0, None)
        x = images[here][: len(rows)]
        sizes.append(misfit(part, x))
        if kind is not None:
            trusted = None if belief is None else belief.flatten()[here][: len(rows)]
            found = None if in_range is None else in_range.flatten()[here][: len(rows)]
            repaired.append(correct(part, x, kind, trusted, found))

    def whole(values: list[Tensor]) -> Tensor:
        return by_image(torch.cat(values), restarts) if per_row else torch.cat(values)

    result = replace(result, misfit=whole(sizes))
    if not repaired:
        return result
    weight = whole([c.weight for c in repaired])
    if bool(weight.isnan().all()):
        kind = "skipped: A is not linear"
    x = whole([c.image for c in repaired])
    return replace(result, x=x, prior_weight=weight, correction=kind)


def warn_of_lost(reasons: Sequence[str]) -> None:
    """Warn where a search met a value that is not finite: the one place that does."""
    lost = list(reasons).count(NON_FINITE)
    if lost:
        warnings.warn(
            f"{lost} of {len(reasons)} rows met a non-finite value and returned their last "
            "good iterate; a smaller lr, or another optimizer, usually prevents it",
            RuntimeWarning,
            stacklevel=4,
        )
