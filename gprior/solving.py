"""`solve`: measurements, operator and prior in, reconstructions out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from gprior.checks import InputError
from gprior.distances import choose
from gprior.priors import Label, Prior
from gprior.problem import (
    Forward,
    Leaves,
    PerceptualTerm,
    Problem,
    as_leaves,
    entries,
    informative,
    split,
)
from gprior.randomness import in_plain_mode
from gprior.result import Result, best_restart
from gprior.search import Outcome, Watch, check_init, latents_of
from gprior.solvers import Solver, find_solver, name_of

__all__ = ["solve"]

RULES = ("auto", "discrepancy", "holdout", "fixed")


@in_plain_mode
def solve(
    y: Any,
    A: Any,
    prior: Prior,
    solver: str | Solver | None = None,
    *,
    label: Label | Callable[[Tensor], Tensor] = None,
    noise_std: float | Sequence[float] | Tensor | None = None,
    stop: str = "auto",
    restarts: int = 1,
    init: Any = None,
    seed: int | Sequence[int] = 0,
    budget: float | None = None,
    progress: bool = False,
    callback: Callable[[int, Tensor, Tensor, Tensor], Any] | None = None,
    per_image: Sequence[str] | None = None,
    **constants: Any,
) -> Result:
    """Reconstruct images from measurements y = A x + noise, with x = G(latents).

    Parameters
    ----------
    y : Tensor, array or deepinv TensorList
        Measurements (B, ...). Each image is a problem of its own: its answer does not
        depend on the others in the batch.
    A : object
        A deepinv physics (gprior's operators are), a differentiable callable, a dense
        matrix (tensor or array, acting on ``x.flatten(1)``), a `scipy.sparse` matrix or
        a `scipy.sparse.linalg.LinearOperator`. A physics may hold one parameter per
        image.
    prior : Prior
        From `gprior.load_prior`. Its dtype and device are those of the solution.
    solver : str or Solver, optional
        Name or instance; None picks ``"lbrgm"`` where the prior has a W space, else a
        search in Z.
    label : int, sequence, tensor, callable or None
        Class of the images: an index, one per image, soft vectors, or a classifier
        (pseudo-inverse image -> probabilities). None scores candidates of every class on y,
        and each image keeps its best; where there are more than 100 classes, and than the N
        of ``"best-of:N"``, candidates are of max(100, N) classes drawn at random.
    noise_std : float, sequence or None
        Noise standard deviation in the units of y, one for all or one per image; None
        takes that of A's Gaussian noise model, if it has one.
    stop : {"auto", "discrepancy", "holdout", "fixed"}
        ``"discrepancy"`` stops where the residual reaches the noise level; ``"holdout"``
        keeps the iterate that best predicts about 5 % of the entries, which the fit never
        sees (for an encoder or classifier they are 0); ``"fixed"`` runs all steps and
        keeps the least loss. ``"auto"`` takes the first that is possible. None of them sees
        the ground truth.
    restarts : int
        Runs from different draws; each image keeps its best by the criterion.
    init : str, tensor, dict or callable, optional
        Starting point in place of the solver's own: ``"mean"``, ``"random"``,
        ``"best-of:N"``, latents, or an encoder (pseudo-inverse image -> latents).
    seed : int or sequence of int
        One for all, or one per image. The answer is a function of it.
    budget : float, optional
        Forward and backward passes of the generator per image, all restarts and
        candidates included; replaces ``steps``.
    progress : bool
        Show a progress bar.
    callback : callable, optional
        Called as ``callback(step, rows, loss, image)`` after each step with the rows that
        still run, image-major (row // restarts is the image).
    per_image : sequence of str, optional
        Names of A's buffers that hold one entry per image, where that is ambiguous.
    **constants
        Fields of the solver, as ``steps=1000`` or ``lr=0.05``.

    Returns
    -------
    Result
        ``result.x`` is (B, C, H, W).

    Raises
    ------
    TypeError
        If a constant is misspelt (the message lists the valid ones), or y or A is of an
        unknown kind.
    ValueError
        If y does not fit A and the prior, is not finite, or an argument is out of range.

    Examples
    --------
    >>> import gprior
    >>> prior = gprior.load_prior("phantom-64")
    >>> A = gprior.operators.PartialCirculant(prior.image_shape, m=0.1, seed=0)
    >>> y = A(prior.sample(1, seed=3))
    >>> result = gprior.solve(y, A, prior, steps=2, init="random")
    >>> result.x.shape
    torch.Size([1, 1, 64, 64])
    """
    started = time.perf_counter()
    method = find_solver(solver, prior, constants)
    if init is not None:
        method = replace(method, init=init)
    check_init(method.init)
    if not isinstance(restarts, int) or restarts < 1:
        raise InputError(f"restarts must be a positive integer, got {restarts!r}")
    leaves, B = _measurements(y, prior)
    free = max(prior.c_dim, 1) if label is None else 1
    if budget is not None:
        if "steps" in constants:
            raise InputError("give either budget or steps, not both")
        method = method.within(budget, restarts, free)
    forward = Forward(A, prior.image_shape, prior.like, B, per_image)
    seeds = _seeds(seed, B)
    problem = _problem(leaves, forward, prior, method, seeds, restarts, stop, noise_std)
    if callable(label):
        label = _classified(label, _guess(problem, restarts), prior)
    c = None if label is None else prior.classes(label, B)
    if c is not None:
        c = c.repeat_interleave(restarts, 0)

    latents = latents_of(method.init, lambda: _guess(problem, restarts), B)
    outcome = _run(problem, replace(method, init=latents), c, progress, callback)
    seconds = time.perf_counter() - started
    return _result(outcome, problem, method, restarts, seeds, seconds)


def _measurements(y: Any, prior: Prior) -> tuple[Leaves, int]:
    """Check y and place it as the prior is."""
    like = prior.like
    leaves = []
    for leaf in as_leaves(y):
        kind = torch.promote_types(like.dtype, torch.complex32) if leaf.is_complex() else like.dtype
        leaf = leaf.clone() if leaf.is_inference() else leaf.detach()
        leaves.append(leaf.to(device=like.device, dtype=kind))
        if leaf.ndim < 2:
            raise InputError(f"y must have a batch dimension, (B, ...), got {tuple(leaf.shape)}")
        if not bool(leaf.isfinite().all()):
            bad = int((~leaf.isfinite()).sum())
            raise InputError(
                f"y must be finite, but {bad} of {leaf.numel()} entries are NaN or infinite; "
                "remove them with a mask operator"
            )
    sizes = {len(leaf) for leaf in leaves}
    if len(sizes) != 1 or 0 in sizes:
        raise InputError(f"y must have one batch size of at least 1, got {sorted(sizes)}")
    return leaves, sizes.pop()


def _guess(problem: Problem, restarts: int) -> Tensor:
    """Return the pseudo-inverse of the measurements, for an encoder to start from.

    Held-out entries are 0, as of an empty image, to stay unseen.
    """
    if len(problem.y) != 1:
        raise InputError("an encoder or classifier needs a measurement of one tensor; pass latents")
    found = problem.forward.pseudo_inverse((problem.y[0] * (1 - problem.held[0]))[::restarts])
    if found is None:
        raise InputError("an encoder or classifier needs an A with a pseudo-inverse; pass latents")
    return found.to(problem.prior.like)


def _classified(label: Callable[[Tensor], Tensor], images: Tensor, prior: Prior) -> Tensor:
    """Return what a user's classifier says about images, (B, c_dim)."""
    with torch.no_grad():
        found = torch.as_tensor(label(images)).to(prior.like)
    proper = found.shape == (len(images), prior.c_dim) and bool((found >= 0).all())
    if not proper or not torch.allclose(found.sum(1), found.new_ones(()), atol=1e-3):
        raise InputError(
            "label as a callable must return probabilities of shape "
            f"({len(images)}, {prior.c_dim}), rows that sum to 1, got shape {tuple(found.shape)}"
        )
    return found


def _seeds(seed: int | Sequence[int], images: int) -> list[int]:
    if isinstance(seed, Integral):
        return [int(seed)] * images
    seeds = [int(s) for s in seed]  # type: ignore[union-attr]
    if len(seeds) != images:
        raise InputError(f"seed must be one or one per image ({images}), got {len(seeds)}")
    return seeds


def _problem(
    y: Leaves,
    forward: Forward,
    prior: Prior,
    method: Solver,
    seeds: list[int],
    restarts: int,
    stop: str,
    noise_std: float | Sequence[float] | Tensor | None,
) -> Problem:
    """Build the rows: every image, ``restarts`` times."""
    B = len(seeds)
    image = torch.arange(B, device=prior.like.device)
    with torch.enable_grad():
        x = prior.like.new_full((B, *prior.image_shape), 0.5).requires_grad_()
        measured = forward(x, image)
    expected = [tuple(leaf.shape) for leaf in measured]
    given = [tuple(leaf.shape) for leaf in y]
    if expected != given:
        raise InputError(
            f"y must have the shape of A's measurements of {B} images {prior.image_shape}: "
            f"expected {expected}, got {given}"
        )
    if not all(leaf.requires_grad for leaf in measured):
        raise InputError("A must be differentiable: no gradient passes from A(x) to x")
    masks = informative(forward, y, image)
    fit, held, sigma = _rule(stop, noise_std, forward, masks, seeds, prior)
    rows = image.repeat_interleave(restarts)
    return Problem(
        prior=prior,
        forward=forward,
        y=[leaf[rows] for leaf in y],
        fit=[leaf[rows] for leaf in fit],
        held=[leaf[rows] for leaf in held],
        image=rows,
        keys=[(s, r) for s in seeds for r in range(restarts)],
        sigma=sigma[rows],
        perceptual=_perceptual(method, prior, forward, y),
    )


def _rule(
    stop: str,
    noise_std: float | Sequence[float] | Tensor | None,
    forward: Forward,
    masks: Leaves,
    seeds: list[int],
    prior: Prior,
) -> tuple[Leaves, Leaves, Tensor]:
    """Resolve the stopping rule: fit and held-out masks, and sigma (B,), NaN where unused."""
    if stop not in RULES:
        raise InputError(f"stop must be one of {RULES}, got {stop!r}")
    B = len(seeds)
    known = forward.noise_std()
    if noise_std is not None:
        known = torch.as_tensor(noise_std, dtype=torch.float32, device="cpu").flatten()
    if known is None:
        known = torch.full((B,), torch.nan, dtype=torch.float32, device="cpu")
    elif noise_std is not None and not bool((known > 0).all() & known.isfinite().all()):
        raise InputError(
            f"noise_std must be positive and finite, got {known.tolist()}; leave it None where "
            "it is unknown"
        )
    if known.numel() not in (1, B):
        raise InputError(f"noise_std must be one or one per image ({B}), got {known.numel()}")
    sigma = torch.where(known > 0, known, torch.nan).to(prior.like).expand(B)
    if stop == "discrepancy" and not bool(sigma.isfinite().all()):
        raise InputError("stop='discrepancy' needs noise_std, or an A with Gaussian noise")
    if stop in ("holdout", "fixed"):
        sigma = torch.full_like(sigma, torch.nan)
    wanted = sigma.isnan() & (stop != "fixed")
    fit, held = split(masks, seeds, prior.image_shape[0] == 2, wanted)
    if stop == "holdout" and not bool((entries(held) > 0).all()):
        raise InputError("stop='holdout' needs more entries in y: 200 must remain for the fit")
    return fit, held, sigma


def _perceptual(method: Solver, prior: Prior, forward: Forward, y: Leaves) -> PerceptualTerm | None:
    """Return the perceptual distance where it applies: between measurements that are images."""
    wanted = method.perceptual
    if wanted is False or not method.has_perceptual:
        return None
    if wanted is None and not forward.measures_images:
        return None
    if len(y) != 1 or y[0].ndim != 4 or y[0].is_complex():
        if wanted is None:
            return None
        raise InputError("perceptual needs a measurement that is one batch of images")
    found = choose(wanted, prior)
    return None if found is None else PerceptualTerm(*found)


def _run(
    problem: Problem,
    method: Solver,
    c: Tensor | None,
    progress: bool,
    callback: Callable[[int, Tensor, Tensor, Tensor], Any] | None,
) -> Outcome:
    """Run the rows in parts of ``max_batch``, halved where a GPU runs out of memory."""
    from tqdm import tqdm

    R, size, parts, at = len(problem), method.max_batch, [], 0
    total = R * method.total
    with tqdm(total=total, disable=not progress, unit="step", smoothing=0.05) as bar:
        while at < R:
            rows = torch.arange(at, min(at + size, R), device=problem.image.device)
            before = bar.n

            def look(step: int, row: Tensor, loss: Tensor, image: Tensor, at: int = at) -> None:
                if callback is not None:
                    callback(step, row + at, loss, image)

            watch = Watch(bar.update, look)
            own = None if c is None else c[rows]
            try:
                part = problem.take(rows).prepared()
                parts.append(replace(method, max_batch=size).run(part, own, watch))
            except torch.cuda.OutOfMemoryError:
                size = min(size, len(rows) * method.members) // 2
                if size == 0:
                    raise
                torch.cuda.empty_cache()
                bar.update(before - bar.n)
                continue
            at += len(rows)
        bar.update(total - bar.n)
    return Outcome.join(parts)


def _result(
    outcome: Outcome,
    problem: Problem,
    method: Solver,
    restarts: int,
    seeds: list[int],
    seconds: float,
) -> Result:
    """Keep the best restart of each image."""
    prior, spent = problem.prior, outcome.evaluations.view(-1, restarts).sum(1)
    kept = outcome.take(best_restart(outcome.criterion, restarts))
    c = {"c": kept.start["c"]} if "c" in kept.start else {}
    return Result(
        x=kept.image,
        latents={**kept.code, **c},
        loss=kept.loss,
        terms=kept.terms,
        criterion=kept.criterion,
        history=kept.history,
        label=kept.start["c"].argmax(1).tolist() if c else None,
        reason=kept.reason,
        evaluations=spent,
        seconds=seconds,
        seed=seeds,
        perceptual="perceptual" in kept.terms,
        stop=problem.rules()[::restarts],
        diagnostics=kept.diagnostics,
        solver={"name": name_of(method), **method.constants()},
        prior={"name": prior.name, **prior.record},
        features=_features(kept, problem),
    )


def _features(outcome: Outcome, problem: Problem) -> str | None:
    """Return the name of the features, where the method used them."""
    term = problem.perceptual if "perceptual" in outcome.terms else None
    return None if term is None else term.distance.name
