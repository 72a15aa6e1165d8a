"""Regularizers and schedules of the step size that several papers use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

__all__ = ["geodesic_cross", "noise_autocorrelation", "one_cycle_drop", "trapezoid"]


def geodesic_cross(v: Tensor) -> Tensor:
    """Return the mean squared angle between the latents of all pairs of layers.

    The angle between two latents a and b of the same length is 2 atan2(|a - b|, |a + b|). It
    enters as 512 angle² / 8 for every n, as in PULSE (Menon et al. 2020, equation 5).

    Parameters
    ----------
    v : Tensor
        Latents (R, L, n) of L layers.

    Returns
    -------
    Tensor
        One value per row, (R,).
    """
    pairs = (v[:, :, None] + sign * v[:, None] for sign in (-1, 1))
    difference, total = (torch.sqrt(u.square().sum(3) + 1e-9) for u in pairs)
    return (512 / 8) * (2 * torch.atan2(difference, total)).square().mean((1, 2))


def noise_autocorrelation(maps: Mapping[int, Tensor]) -> Tensor:
    """Return the squared correlation of noise maps with their shifts, over a pyramid.

    Every map n is halved by averaging over 2 x 2 entries until it has at most 8 rows. At each
    size, the squares of the means of n(i, j) n(i, j+1) and of n(i, j) n(i+1, j) are added (Karras
    et al. 2020, arXiv:1912.04958, appendix D).

    Parameters
    ----------
    maps : mapping of int to Tensor
        Noise maps (R, 1, r, r) by their numbers.

    Returns
    -------
    Tensor
        One value per row, (R,).
    """
    total = torch.zeros((), dtype=torch.float32, device="cpu")
    for n in maps.values():
        total = total.to(n)
        while True:
            for dim in (2, 3):
                total = total + (n * n.roll(1, dim)).mean((1, 2, 3)).square()
            if n.shape[-1] <= 8:
                break
            n = F.avg_pool2d(n, 2)
    return total


def trapezoid(down: float, up: float = 0.05) -> Callable[[float], float]:
    """Return a schedule that rises linearly from 0, stays at 1, and falls to 0 as a cosine.

    Karras et al. 2020 (appendix D) use ``down=0.25`` and ``up=0.05``.

    Parameters
    ----------
    down, up : float
        Fractions of the run, in (0, 1], during which the schedule falls and rises.

    Returns
    -------
    callable
        (fraction of the run in [0, 1]) -> factor of the step size in [0, 1].

    Examples
    --------
    >>> [round(trapezoid(0.25)(t), 2) for t in (0.025, 0.5, 0.875, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """

    def factor(t: float) -> float:
        fall = 0.5 * (1 - math.cos(math.pi * min(1.0, (1 - t) / down)))
        return fall * min(1.0, t / up)

    return factor


def one_cycle_drop(t: float) -> float:
    """Return PULSE's factor of the step size at the fraction t of the run.

    It rises and falls over nine tenths of the run, then it falls to almost 0.

    Parameters
    ----------
    t : float
        Fraction of the run, in [0, 1].

    Returns
    -------
    float
        Factor in [0.001, 1].

    Examples
    --------
    >>> [round(one_cycle_drop(t), 2) for t in (0.0, 0.45, 0.9, 0.95)]
    [0.1, 1.0, 0.1, 0.05]
    """
    if t < 0.9:
        return (9 * (1 - 2 * abs(t / 0.9 - 0.5)) + 1) / 10
    return 0.1 + (t - 0.9) / 0.1 * (0.001 - 0.1)
