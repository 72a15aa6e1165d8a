"""`tune`: the weights of the generator move to fit the images of a result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gprior.checks import InputError, InputTypeError
from gprior.priors import Prior
from gprior.problem import as_leaves, build_problem
from gprior.randomness import in_plain_mode
from gprior.result import Result
from gprior.search import take
from gprior.solvers import Solver, Tuning, find_tuning
from gprior.solving.stages import (
    CORRECTIONS,
    DEFAULT,
    Callback,
    check_correction,
    corrected,
    tuned,
    warn_of_lost,
)

__all__ = ["tune"]


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
    check_correction(correction)
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
    found = tuned(result, problem, 1, tuning, progress, callback)
    warn_of_lost(found.reason)
    kind = result.correction if correction == DEFAULT else correction
    kind = kind if kind in CORRECTIONS else None  # it may have been skipped
    found = corrected(found, problem, 1, kind, Solver.max_batch)
    return replace(found, seconds=result.seconds + time.perf_counter() - started)


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
