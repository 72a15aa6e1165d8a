"""Statistics of a prior's styles that several methods share."""

from __future__ import annotations

import torch

from gprior.priors import Prior

__all__ = ["spread"]

SAMPLES = 4096


@torch.no_grad()
def spread(prior: Prior) -> float:
    """Return s, the root mean square of an entry of w - w_avg, within a class.

    From 4096 keyed draws through the mapping network alone.
    """
    z = prior.draw([(0, "spread", i) for i in range(SAMPLES)])
    if not prior.c_dim:
        return float((prior.mapping(z)[:, 0] - prior.w_avg).square().mean().sqrt())
    total = 0.0
    for label in range(prior.c_dim):
        rows = z[label :: prior.c_dim]
        w = prior.mapping(rows, prior.classes(label, len(rows)))[:, 0]
        total += float((w - prior.w_avg[label]).square().mean())
    return float((total / prior.c_dim) ** 0.5)
