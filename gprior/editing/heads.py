"""Neighbours: other codes of an image, drawn from the heads that SPHInX found for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gprior.checks import InputError, InputTypeError, integer
from gprior.editing.edits import Edited, begin, rendered
from gprior.priors import Prior
from gprior.randomness import in_plain_mode, normal
from gprior.result import Result
from gprior.solvers import SPHInX

__all__ = ["neighbours"]


@in_plain_mode
@torch.no_grad()
def neighbours(result: Result, prior: Prior, n: int = 1, seed: int = 0) -> Edited:
    """Draw other codes of each image from its heads, and return their images.

    SPHInX trains heads that map random numbers to codes of one image (:doc:`/methods/sphinx`).
    ``Result.latents`` has the weights of the heads, and the mean of their codes. This draws new
    random numbers, and the heads make other codes of them: styles, and content if the content head
    was trained. The noise maps stay.

    Parameters
    ----------
    result : Result
        A result of ``sphinx``, which may have been saved and loaded.
    prior : Prior
        The generator of the result.
    n : int
        Number of codes for each image, at least 1. They do not depend on n: a smaller n gives the
        first ones.
    seed : int
        Another seed gives other codes. They depend on this seed and on the image's own.

    Returns
    -------
    Edited
        B n images: all of the first image, then all of the second, and so on. x has what a
        correction added to the image, as in `edit`.

    Raises
    ------
    InputError
        If the result has no heads, or has all restarts of each image, or if it does not belong to
        the prior.

    Examples
    --------
    >>> import gprior
    >>> prior = gprior.load_prior("phantom-64")
    >>> A = gprior.operators.Masking(prior.image_shape, "half")
    >>> y = A(prior.sample(2, seed=3, label=0))
    >>> result = gprior.solve(y, A, prior, "sphinx", label=0, steps=2)
    >>> drawn = neighbours(result, prior, n=3)
    >>> drawn.x.unflatten(0, (len(result), 3)).shape
    torch.Size([2, 3, 1, 64, 64])
    """
    if not isinstance(result, Result):
        raise InputTypeError(f"result must be a Result, got {type(result).__name__}")
    integer("n", n, least=1)
    integer("seed", seed)
    if "style.draws" not in result.latents:
        name = result.solver.get("name")
        raise InputError(
            f"result must have heads, which the method 'sphinx' trains, and is one of {name!r}; "
            "solve with 'sphinx'"
        )
    kept, added = begin("result", result, prior)
    code = {name: value.to(prior.like) for name, value in result.latents.items()}

    def draw(name: str, shape: Sequence[int]) -> Tensor:
        keys = [(own, "neighbours", name, seed, k) for own in result.seed for k in range(n)]
        return normal(keys, shape, prior.like).view(-1, n, *shape)

    method = SPHInX(head=result.solver.get("head", "decoders"))
    codes = method.neighbours(code, prior, n, draw)
    codes = {name: codes[name] for name in kept}  # without the heads
    return rendered(prior, codes, None if added is None else added.repeat_interleave(n, 0))
