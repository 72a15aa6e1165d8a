"""Statistics of the styles of a prior, which several methods use."""

from __future__ import annotations

import torch
from torch import Tensor

from gprior.priors.prior import Prior

__all__ = ["moments", "samples_by_class", "spread"]

SAMPLES = 4096
MATRICES = 512  # draws of one style per output filter; all its rows count, so fewer are enough


@torch.no_grad()
def samples_by_class(prior: Prior) -> list[Tensor]:
    """Return the styles w of keyed draws in total: one tensor (n, w_dim) per class.

    There are 4096 draws, or 512 if each has one style per output filter.
    """
    n = SAMPLES if "w" in prior.inputs else MATRICES
    z = prior.draw([(0, "spread", i) for i in range(n)])
    if not prior.c_dim:
        return [prior.mapping(z)[:, 0].flatten(0, -2)]
    styles = []
    for label in range(prior.c_dim):
        rows = z[label :: prior.c_dim]
        styles.append(prior.mapping(rows, prior.classes(label, len(rows)))[:, 0].flatten(0, -2))
    return styles


def spread(prior: Prior) -> float:
    """Return s, the root mean square of an entry of w - w_avg, within a class."""
    core = prior.core

    def compute() -> float:
        means = core.w_avg if core.c_dim else core.w_avg[None]
        squares = [
            float((w - mean).square().mean())
            for w, mean in zip(samples_by_class(core), means, strict=True)
        ]
        return float((sum(squares) / len(squares)) ** 0.5)

    return core.statistic("spread_of_w", compute)


def moments(prior: Prior) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of each entry of w, (c_dim or 1, w_dim) each."""
    core = prior.core

    def compute() -> tuple[Tensor, Tensor]:
        means = core.w_avg if core.c_dim else core.w_avg[None]
        spreads = [
            (w - mean).square().mean(0).sqrt()
            for w, mean in zip(samples_by_class(core), means, strict=True)
        ]
        return means.clone(), torch.stack(spreads)

    return core.statistic("mean_and_spread_of_w", compute)
