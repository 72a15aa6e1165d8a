"""`solve`: measurements, operator and prior in, reconstructions out."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gprior.checkpoints import load_encoder
from gprior.checks import InputError, integer
from gprior.priors import Encoder, Label, Prior
from gprior.problem import Problem, build_problem, pseudo_inverse
from gprior.randomness import in_plain_mode
from gprior.result import Result, by_image
from gprior.search import ENCODER, LATENTS, Outcome, check_init, latents_of, names_encoder
from gprior.solvers import Solver, Tuning, find_solver, find_tuning, name_of, plausibility
from gprior.solving.stages import (
    DEFAULT,
    Callback,
    check_correction,
    corrected,
    perceptual_term,
    run_rows,
    tuned,
    warn_of_lost,
)

__all__ = ["UNLIKELY", "solve"]

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
    init : str, path, tensor, dict or callable, optional
        Starting point in place of the solver's own: ``"mean"``, ``"random"``,
        ``"best-of:N"``, ``"random-layers"`` for a random latent per layer, ``"encoder"`` for the
        encoder that ships with the prior, the ``.safetensors`` file of an encoder, latents, or a
        callable (pseudo-inverse image -> latents), such as a `gprior.load_encoder`.
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
        Whether to compute `Result.plausibility`, which takes about 3500 evaluations for every
        operator, noise level and label that is new to the prior, and 91 for every image.
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
        the measurements of samples of the prior differ in size by a factor of 100 or more, if
        nothing is measured of an image, or if ``check`` finds that the prior does not contain an
        image.

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
    named = isinstance(init, (str, os.PathLike))
    latents = None if init is None or named or callable(init) else init
    if init is not None:
        check_init(init)
        method = replace(method, init=init if latents is None else LATENTS)
    start = method.init
    if isinstance(start, (str, os.PathLike)) and names_encoder(start):
        method = replace(method, init=load_encoder(prior, None if start == ENCODER else start))
    restarts = integer("restarts", restarts, least=1)
    check_correction(correction)
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
    problem = replace(problem, perceptual=perceptual_term(method, problem))
    problem = _with_label(problem, label, restarts)
    problem = _with_latents(problem, method.init if callable(method.init) else latents, restarts)
    running = method if problem.latents is None else replace(method, init=LATENTS)
    outcome, at_once = run_rows(problem, running, progress, callback)
    warn_of_lost(outcome.reason)
    if isinstance(method.init, Encoder):
        spent = outcome.evaluations + method.init.evaluations / restarts
        outcome = replace(outcome, evaluations=spent)
    result = _result(outcome, problem, replace(method, init=start), restarts, keep)
    if tuning is not None:
        result = tuned(result, problem, restarts, tuning, progress, callback)
        warn_of_lost(result.reason)
    kind = method.correction if correction == DEFAULT else correction
    result = corrected(result, problem, restarts, kind, at_once)
    if check:
        result = _checked(result, problem, restarts, at_once)
    return replace(result, seconds=time.perf_counter() - started)


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
        if isinstance(init, Encoder):
            label = None if problem.label is None else problem.label[::restarts]
            given: Any = init(pseudo_inverse(problem, restarts), label)
        else:
            given = init(pseudo_inverse(problem, restarts)) if callable(init) else init
    latents = latents_of(given, len(problem) // restarts)
    rows = {
        name: value.to(problem.prior.like)[problem.image if len(value) > 1 else problem.image * 0]
        for name, value in latents.items()
    }
    return replace(problem, latents=rows)


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
