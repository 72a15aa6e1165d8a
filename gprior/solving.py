"""`solve` and `tune`: measurements, operator and prior in, reconstructions out."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gprior.checks import InputError, InputTypeError, integer
from gprior.distances import choose
from gprior.priors import Label, Prior, TunedWeights
from gprior.problem import PerceptualTerm, Problem, as_leaves, build_problem, pseudo_inverse
from gprior.randomness import in_plain_mode
from gprior.result import Result, by_image
from gprior.search import (
    LATENTS,
    NON_FINITE,
    Corrected,
    Outcome,
    Watch,
    check_init,
    correct,
    latents_of,
    misfit,
    take,
    trust_in,
)
from gprior.solvers import Solver, Tuning, find_solver, find_tuning, name_of, plausibility

__all__ = ["solve", "tune"]

Callback = Callable[[int, Tensor, Tensor, Tensor], Any]
DEFAULT = "default"  # the correction that belongs to the method
CORRECTIONS = (DEFAULT, "auto", "tv", None)
UNLIKELY = 0.05  # plausibility below which the prior is said not to contain an image


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
    keep: str = "best",
    init: Any = None,
    correction: str | None = DEFAULT,
    tune: str | Tuning | None = None,
    check: bool = False,
    foreground: Tensor | None = None,
    seed: int | Sequence[int] = 0,
    budget: float | None = None,
    progress: bool = False,
    callback: Callback | None = None,
    per_image: Sequence[str] | None = None,
    **constants: Any,
) -> Result:
    """Reconstruct images from measurements y = A x + noise, with x = G(latents).

    Parameters
    ----------
    y : Tensor, array or deepinv TensorList
        Measurements (B, ...). Each image is a problem of its own: its answer does not
        depend on the others in the batch. Entries on which A does not depend may be NaN, and
        the masked entries of a masked array (``numpy.ma``) are not fitted.
    A : object
        A deepinv physics (gprior's operators are), a differentiable callable, a matrix
        acting on ``x.flatten(1)`` (an array, or a tensor, dense or sparse), a
        `scipy.sparse` matrix or a `scipy.sparse.linalg.LinearOperator`. A physics may hold one
        parameter per image.
    prior : Prior
        From `gprior.load_prior`. Its dtype and device are those of the solution.
    solver : str or Solver, optional
        Name or instance; None takes ``"auto"``, which finds out how far the prior is to be
        trusted. The others are methods of papers.
    label : int, sequence, tensor, callable or None
        Class of the images: an index, one per image, soft vectors, or a classifier
        (pseudo-inverse image -> probabilities). None scores candidates of every class on y,
        and each image keeps its best; where there are more than 100 classes, and more than the N
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
        Runs from different draws.
    keep : {"best", "all"}
        ``"best"`` returns the restart of least criterion of each image; ``"all"`` returns every
        restart, x (B, restarts, C, H, W), with its criterion: see `Result.best`.
    init : str, tensor, dict or callable, optional
        Starting point in place of the solver's own: ``"mean"``, ``"random"``,
        ``"best-of:N"``, latents, or an encoder (pseudo-inverse image -> latents).
    correction : {"default", "auto", "tv"} or None
        What follows the search, to repair what the generator cannot say: see
        `gprior.search.correction`. ``"auto"`` minimises the data term and the total variation of
        the image and of its difference from the generated image, with weights chosen from y.
        ``"tv"`` leaves the generated image out. The default is ``"auto"`` for the method
        ``"auto"`` and None for those of papers. It is skipped if A is not linear.
    tune : {"pix2latent", "pti"}, Tuning or None
        Whether to fine-tune the weights of the generator to each image after the search and before
        the correction: see `gprior.tune`. The budget is that of the search alone.
    check : bool
        Whether to compute `Result.plausibility`, which takes about 3900 evaluations for every
        operator, noise level and label that is new to the prior, and 100 for every image.
    foreground : Tensor, optional
        The object's pixels, 1 inside and 0 outside, (H, W), or one mask for each image
        (B, 1, H, W). Outside, the data terms have the weight 0.3. For measurements that are
        images.
    seed : int or sequence of int
        One for all, or one per image. The answer is a function of it.
    budget : float, optional
        Forward and backward passes of the generator per image, all restarts and
        candidates included; replaces ``steps``.
    progress : bool
        Show a progress bar.
    callback : callable, optional
        Called as ``callback(step, rows, loss, image)`` after each step with the rows that
        still run, image-major (row // restarts is the image). If it returns False, the search
        stops and the best so far is returned.
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
    InputTypeError
        If a constant is misspelt (the message lists the valid ones), or y or A is of an
        unknown kind. It is a TypeError and a ValueError.
    InputError
        If y does not fit A and the prior, is not finite, or an argument is out of range. It is a
        ValueError.

    Warns
    -----
    RuntimeWarning
        If a search met a value that is not finite (``Result.reason`` says which), if y and
        the measurements of images in [0, 1] differ in size by a factor of 100 or more, or if
        ``check`` finds that the prior does not contain an image.

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
    latents = None if init is None or isinstance(init, str) or callable(init) else init
    if init is not None:
        check_init(init)
        method = replace(method, init=init if latents is None else LATENTS)
    restarts = integer("restarts", restarts, least=1)
    if correction not in CORRECTIONS:
        raise InputError(f"correction must be one of {CORRECTIONS}, got {correction!r}")
    if keep not in ("best", "all"):
        raise InputError(f"keep must be 'best' or 'all', got {keep!r}")
    tuning = None if tune is None else find_tuning(tune)
    if tuning is not None and keep == "all":
        raise InputError("tune needs keep='best': pass the result of some images to gprior.tune")
    if budget is not None:
        if "steps" in constants:
            raise InputError("give either budget or steps, not both")
        classes = max(prior.c_dim, 1) if label is None else 1
        method = method.with_budget(budget, restarts, classes)
    problem = build_problem(
        y,
        A,
        prior,
        noise_std=noise_std,
        stop=stop,
        restarts=restarts,
        seed=seed,
        per_image=per_image,
        foreground=foreground,
    )
    problem = replace(problem, perceptual=_perceptual(method, problem))
    problem = _with_label(problem, label, restarts)
    problem = _with_latents(problem, method.init if callable(method.init) else latents, restarts)
    running = method if problem.latents is None else replace(method, init=LATENTS)
    outcome, at_once = _run(problem, running, progress, callback)
    _warn_of_lost(outcome)
    result = _result(outcome, problem, method, restarts, keep)
    if tuning is not None:
        result = _tuned(result, problem, restarts, tuning, progress, callback)
    kind = method.correction if correction == DEFAULT else correction
    result = _corrected(result, problem, restarts, kind, at_once)
    if check:
        result = _checked(result, problem, restarts, at_once)
    return replace(result, seconds=time.perf_counter() - started)


@in_plain_mode
def tune(
    result: Result,
    y: Any,
    A: Any,
    prior: Prior,
    method: str | Tuning = "pix2latent",
    *,
    noise_std: float | Sequence[float] | Tensor | None = None,
    stop: str = "auto",
    correction: str | None = DEFAULT,
    foreground: Tensor | None = None,
    progress: bool = False,
    callback: Callback | None = None,
    per_image: Sequence[str] | None = None,
    **constants: Any,
) -> Result:
    """Fine-tune the weights of the generator to each image, from the solution of `solve`.

    Each image has weights of its own, near those of the prior, and the prior stays as it is. The
    images are tuned one after the other.

    Parameters
    ----------
    result : Result
        From `solve`, with one solution for each image.
    y, A, prior
        Those with which ``result`` was found.
    method : {"pix2latent", "pti"} or Tuning
        ``"pix2latent"`` moves weights and latents, with a penalty on the change of the weights
        (Huh et al. 2020, equation 6). ``"pti"`` fixes the latents and has no penalty (Roich et al.
        2021).
    noise_std, stop, foreground, per_image
        As for `solve`, and best the same: with the seeds of the result, the entries that are held
        out are the same. They decide when the tuning stops and which step is kept.
    correction : {"default", "auto", "tv"} or None
        What follows the tuning, as for `solve`. The default is the correction of ``result``.
    progress : bool
        Show a progress bar.
    callback : callable, optional
        As for `solve`, with one row for each image.
    **constants
        Fields of `gprior.solvers.Tuning`, such as ``steps``, ``penalty`` or ``lr``.

    Returns
    -------
    Result
        ``weights`` has the weights of each image, and ``generated`` is what the tuned generators
        make of ``latents``. Loss, criterion, history and reason are those of the tuning, and
        ``evaluations`` are those of search and tuning. ``diagnostics["weight change"]`` is the
        root mean square change of the weights. ``diagnostics["trust"]`` is how far the prior was to
        be trusted before it was tuned; the correction goes by it, because afterwards the image
        fits y in any case.

    Raises
    ------
    InputTypeError
        If a constant is misspelt, or ``result`` is no `Result`.
    InputError
        If the result is of another prior or number of images, is tuned already, or has several
        solutions for an image; and as `solve`.

    Warns
    -----
    RuntimeWarning
        If an image met a value that is not finite. It returns its last good weights.

    Examples
    --------
    >>> import gprior
    >>> prior = gprior.load_prior("phantom-64")
    >>> A = gprior.operators.Downsampling(prior.image_shape, 4)
    >>> y = A(prior.sample(1, seed=3))
    >>> result = gprior.solve(y, A, prior, steps=2)
    >>> tuned = gprior.tune(result, y, A, prior, steps=2)
    >>> tuned.weights.generator(prior, image=0).image_shape
    (1, 64, 64)
    """
    started = time.perf_counter()
    if not isinstance(result, Result):
        raise InputTypeError(f"result must be a gprior.Result, got {type(result).__name__}")
    tuning = find_tuning(method, constants)
    if correction not in CORRECTIONS:
        raise InputError(f"correction must be one of {CORRECTIONS}, got {correction!r}")
    if result.restarts is not None:
        raise InputError("result must have one solution for each image: pass result.best()")
    if result.weights is not None:
        raise InputError("result is tuned already: pass the result of solve without tune")
    if as_leaves(y)[0].shape[:1] != (len(result),):
        raise InputError(
            f"y must have the {len(result)} images of the result, got shape "
            f"{tuple(as_leaves(y)[0].shape)}; result.take returns some of the images"
        )
    problem = build_problem(
        y,
        A,
        prior,
        noise_std=noise_std,
        stop=stop,
        seed=result.seed,
        per_image=per_image,
        foreground=foreground,
    )
    _check_origin(result, prior, tuning)
    tuned = _tuned(result, problem, 1, tuning, progress, callback)
    kind = result.correction if correction == DEFAULT else correction
    kind = kind if kind in CORRECTIONS else None
    tuned = _corrected(tuned, problem, 1, kind, Solver.max_batch)
    return replace(tuned, seconds=result.seconds + time.perf_counter() - started)


def _check_origin(result: Result, prior: Prior, tuning: Tuning) -> None:
    """Refuse a result of another prior."""
    rows = torch.arange(len(result), device="cpu").split(Solver.max_batch)  # type: ignore[no-untyped-call]
    latents = {name: value.to(prior.like) for name, value in result.latents.items()}
    try:
        with torch.no_grad():
            images = torch.cat([tuning.render(prior, take(latents, part)) for part in rows])
        same = torch.allclose(images, result.generated.to(images), atol=1e-2)
    except (TypeError, ValueError, RuntimeError):  # the latents do not even fit
        same = False
    if not same:
        raise InputError(
            "prior must be the one with which the result was found: this one makes other images "
            "of the latents"
        )


def _tuned(
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
    term = _perceptual(tuning, problem)
    problem = replace(problem, latents=start, perceptual=term, maps=None)

    def report(step: int, rows: Tensor, *values: Tensor) -> Any:  # row // restarts is the image
        return None if callback is None else callback(step, rows * restarts, *values)

    outcome, _ = _run(problem, tuning, progress, report)
    _warn_of_lost(outcome)
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


def _with_label(
    problem: Problem, label: Label | Callable[[Tensor], Tensor], restarts: int
) -> Problem:
    """Return the problem with the class vectors of its rows, where the label is given."""
    if label is None:
        return problem
    B = len(problem) // restarts
    if callable(label):
        label = _classified(label, pseudo_inverse(problem, restarts), problem.prior)
    c = problem.prior.classes(label, B)
    return replace(problem, label=None if c is None else c[problem.image])


def _classified(label: Callable[[Tensor], Tensor], images: Tensor, prior: Prior) -> Tensor:
    """Return the probabilities (B, c_dim) that a user's classifier gives images."""
    with torch.no_grad():
        c = torch.as_tensor(label(images), device="cpu").to(prior.like)
    proper = c.shape == (len(images), prior.c_dim) and bool((c >= 0).all())
    if not proper or not torch.allclose(c.sum(1), c.new_ones(()), atol=1e-3):
        raise InputError(
            "label as a callable must return probabilities of shape "
            f"({len(images)}, {prior.c_dim}), rows that sum to 1, got shape {tuple(c.shape)}"
        )
    return c


def _with_latents(problem: Problem, init: Any, restarts: int) -> Problem:
    """Return the problem with latents to start from: given ones, or those of an encoder."""
    if init is None:
        return problem
    with torch.no_grad():
        given = init(pseudo_inverse(problem, restarts)) if callable(init) else init
    latents = latents_of(given, len(problem) // restarts)
    rows = {
        name: value.to(problem.prior.like)[problem.image if len(value) > 1 else problem.image * 0]
        for name, value in latents.items()
    }
    return replace(problem, latents=rows)


def _perceptual(method: Solver, problem: Problem) -> PerceptualTerm | None:
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


def _run(
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


def _warn_of_lost(outcome: Outcome) -> None:
    """Warn where a search met a value that is not finite: the one place that does."""
    lost = outcome.reason.count(NON_FINITE)
    if lost:
        warnings.warn(
            f"{lost} of {len(outcome.reason)} rows met a non-finite value and returned their last "
            "good iterate; a smaller lr, or another optimizer, usually prevents it",
            RuntimeWarning,
            stacklevel=4,
        )


def _corrected(
    result: Result, problem: Problem, restarts: int, kind: str | None, at_once: int
) -> Result:
    """Return the result with its misfit, and with corrected images if a correction is wanted."""
    per_row = result.restarts is not None  # else one row for each image
    every = torch.arange(len(problem), device=problem.image.device)
    images = result.x.flatten(0, 1) if per_row else result.x
    belief = result.diagnostics.get("trust")
    sizes: list[Tensor] = []
    corrected: list[Corrected] = []
    for rows in every[:: 1 if per_row else restarts].split(at_once):  # type: ignore[no-untyped-call]
        part, here = problem.take(rows), slice(len(torch.cat(sizes)) if sizes else 0, None)
        x = images[here][: len(rows)]
        sizes.append(misfit(part, x))
        if kind is not None:
            trusted = None if belief is None else belief.flatten()[here][: len(rows)]
            corrected.append(correct(part, x, kind, trusted))

    def whole(values: list[Tensor]) -> Tensor:
        return by_image(torch.cat(values), restarts) if per_row else torch.cat(values)

    result = replace(result, misfit=whole(sizes))
    if not corrected:
        return result
    weight = whole([c.weight for c in corrected])
    if bool(weight.isnan().all()):
        kind = "skipped: A is not linear"
    x = whole([c.image for c in corrected])
    return replace(result, x=x, prior_weight=weight, correction=kind)


def _checked(result: Result, problem: Problem, restarts: int, at_once: int) -> Result:
    """Return the result with its plausibility, and warn of images that the prior lacks."""
    first = torch.arange(0, len(problem), restarts, device="cpu")
    shares = plausibility(problem.take(first), at_once)
    unlikely = [i for i, share in enumerate(shares.tolist()) if share < UNLIKELY]
    if unlikely:
        warnings.warn(
            f"the prior does not contain {len(unlikely)} of {len(shares)} images (numbers "
            f"{unlikely[:10]}): their misfit is larger than that of 95 % of the prior's own "
            "samples. Do not trust what the measurements do not show",
            RuntimeWarning,
            stacklevel=4,
        )
    if result.restarts is not None:
        shares = shares[:, None].expand(-1, restarts)
    return replace(result, plausibility=shares)


def _result(outcome: Outcome, problem: Problem, method: Solver, restarts: int, keep: str) -> Result:
    """Return all restarts of each image, or the best of them."""
    prior, terms = problem.prior, outcome.terms
    label = {"c": outcome.start["c"]} if "c" in outcome.start else {}
    values: dict[str, Any] = {
        "x": outcome.image,
        "latents": {**outcome.code, **label},
        "loss": outcome.loss,
        "terms": terms,
        "criterion": outcome.criterion,
        "history": outcome.history,
        "label": label["c"].argmax(1).tolist() if label else None,
        "reason": outcome.reason,
        "evaluations": outcome.evaluations,
        "diagnostics": outcome.diagnostics,
    }
    used = problem.perceptual if "perceptual" in terms else None
    rows: dict[str, Any] = {
        k: None if v is None else by_image(v, restarts) for k, v in values.items()
    }
    every = Result(
        **rows,
        seconds=0.0,
        seed=[seed for seed, _ in problem.keys[::restarts]],
        perceptual=used is not None,
        stop=[rule.name for rule in problem.rules[::restarts]],
        solver={"name": name_of(method), **method.constants()},
        prior={"name": prior.name, **prior.record},
        features=None if used is None else used.distance.name,
    )
    return every if keep == "all" else every.best()
