"""Regularizers and step-size schedules that several papers share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

__all__ = ["geodesic_cross", "noise_autocorrelation", "one_cycle_drop", "trapezoid"]


def geodesic_cross(v: Tensor) -> Tensor:
    """Return the mean squared angle between the latents of all pairs of layers, (R,).

    v is (R, L, n); the angle of two latents of one length is 2 atan2(|a - b|, |a + b|), which
    enters as 512 angle² / 8, as in PULSE (Menon et al. 2020, equation 5), whatever n is.
    """
    apart, along = (v[:, :, None] + sign * v[:, None] for sign in (-1, 1))
    near, far = (torch.sqrt(u.square().sum(3) + 1e-9) for u in (apart, along))
    return (512 / 8) * (2 * torch.atan2(near, far)).square().mean((1, 2))


def noise_autocorrelation(maps: Mapping[int, Tensor]) -> Tensor:
    """Return the squared correlation of noise maps with their shifts, over a pyramid, (R,).

    For each map (R, 1, r, r) and its 2x averages down to 8 pixels, the squares of the means
    of n(i, j) n(i, j+1) and n(i, j) n(i+1, j) (Karras et al. 2020, arXiv:1912.04958,
    appendix D).
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
    """Return the schedule that rises linearly, stays at 1, and falls as a cosine.

    ``up`` and ``down`` are fractions of the run (Karras et al. 2020, appendix D, have
    0.05 and 0.25).

    >>> [round(trapezoid(0.25)(t), 2) for t in (0.025, 0.5, 0.875, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """

    def factor(t: float) -> float:
        fall = 0.5 * (1 - math.cos(math.pi * min(1.0, (1 - t) / down)))
        return fall * min(1.0, t / up)

    return factor


def one_cycle_drop(t: float) -> float:
    """Return PULSE's schedule: up and down over nine tenths of the run, then nearly off.

    >>> [round(one_cycle_drop(t), 2) for t in (0.0, 0.45, 0.9, 0.95)]
    [0.1, 1.0, 0.1, 0.05]
    """
    if t < 0.9:
        return (9 * (1 - 2 * abs(t / 0.9 - 0.5)) + 1) / 10
    return 0.1 + (t - 0.9) / 0.1 * (0.001 - 0.1)
