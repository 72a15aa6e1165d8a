"""`calibrate`: how wide the intervals must be for images of the user's kind."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from gprior.checks import InputError, number
from gprior.priors import Prior
from gprior.problem import Forward, informative
from gprior.randomness import normal
from gprior.sampling.conformal import FLOOR, Calibration, factor_for, least_images
from gprior.sampling.drawing import posterior

__all__ = ["calibrate"]


def calibrate(
    images: Tensor,
    A: Any,
    prior: Prior,
    samples: int = 16,
    *,
    level: float = 0.9,
    noise_std: float,
    seed: int = 0,
    operator: str = "",
    **options: Any,
) -> Calibration:
    """Measure images, draw posterior samples, and find the factor that makes their intervals hold.

    The images must be like those that the intervals are for, and the prior must not have been
    trained on them.

    Parameters
    ----------
    images : Tensor
        True images (n, C, H, W) in [0, 1]. Their number must be at least level / (1 - level): 9
        for the level 0.9. More make the guarantee less cautious.
    A : object
        The operator, as for `gprior.solve`.
    prior : Prior
        From `gprior.load_prior`.
    samples : int
        Number of samples of each image, as in the reconstructions.
    level : float
        Wanted share of the pixels of an image inside their intervals, above 0 and below 1.
    noise_std : float
        Standard deviation of the simulated noise, which the sampler knows.
    seed : int
        Image i has the seed (seed + i).
    operator : str
        What the file says about A.
    **options
        ``method``, ``space``, ``label``, ``correction``, ``progress`` and constants of
        `gprior.posterior`.

    Returns
    -------
    Calibration
        For `Posterior.calibrated`, and with a method ``save``.

    Raises
    ------
    InputError
        If the images do not fit the prior or are too few, or an argument is out of range.

    Examples
    --------
    >>> import gprior
    >>> from gprior.training import phantoms
    >>> prior = gprior.load_prior("phantom-64")
    >>> A = gprior.operators.Downsampling(prior.image_shape, 4)
    >>> found = gprior.calibrate(phantoms(range(4), 64, seed=8)[0], A, prior, 2, level=0.5,
    ...                          noise_std=0.05, steps=1, rounds=1, newton=1, label=0)
    >>> found.images, found.level
    (4, 0.5)
    """
    if not 0 < number("level", level) < 1:
        raise InputError(f"level must be above 0 and below 1, got {level}")
    if images.ndim != 4 or tuple(images.shape[1:]) != tuple(prior.image_shape):
        raise InputError(
            f"images must have shape (n, {', '.join(map(str, prior.image_shape))}), got "
            f"{tuple(images.shape)}"
        )
    n = len(images)
    if n < least_images(level):
        raise InputError(
            f"images must be at least {least_images(level)} for level {level:g}, got {n}; add "
            "images or lower the level"
        )
    x = images.to(prior.like)
    y = _measured(x, A, prior, number("noise_std", noise_std, above=0), seed)
    with warnings.catch_warnings():
        # The factor pays for samples that have not converged.
        warnings.filterwarnings("ignore", ".*have not", RuntimeWarning)
        drawn = posterior(
            y, A, prior, samples, noise_std=noise_std, check=False,
            seed=[seed + i for i in range(n)], **options,
        )  # fmt: skip
    low, high = drawn.interval(level)
    inside = float(((x >= low) & (x <= high)).double().mean())
    scores = ((x - drawn.mean).abs() / (drawn.std + FLOOR)).flatten(1)
    factor = factor_for(scores, level)
    return Calibration(level, factor, n, round(inside, 4), drawn.settings(), operator)


@torch.no_grad()
def _measured(x: Tensor, A: Any, prior: Prior, noise_std: float, seed: int) -> Tensor:
    """Return simulated measurements of images, each with its own keyed noise."""
    forward = Forward(A, prior.image_shape, prior.like, len(x))
    rows = torch.arange(len(x), device=x.device)
    y = forward(x, rows)
    if len(y) != 1 or y[0].is_complex():
        raise InputError("a calibration needs an A with one real tensor of measurements")
    seen = informative(forward, y, rows)[0]
    keys = [(seed + i, 0, "calibration noise") for i in range(len(x))]
    return y[0] + noise_std * seen * normal(keys, y[0].shape[1:], y[0])
