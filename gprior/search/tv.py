"""Total variation of an image, and of its difference from another one."""

from __future__ import annotations

import torch
from torch import Tensor

from gprior.problem import Leaves
from gprior.search.linear import LinearRows, spread_out

__all__ = ["gradient", "gradient_adjoint", "minimise_tv", "total_variation"]


def gradient(x: Tensor) -> Tensor:
    """Return the forward differences of images (R, C, H, W) in both directions, (R, C, 2, H, W)."""
    g = x.new_zeros(*x.shape[:2], 2, *x.shape[2:])
    g[:, :, 0, :, :-1] = x[..., 1:] - x[..., :-1]
    g[:, :, 1, :-1] = x[..., 1:, :] - x[..., :-1, :]
    return g


def gradient_adjoint(p: Tensor) -> Tensor:
    """Return the adjoint of `gradient`, (R, C, H, W)."""
    across, down = p[:, :, 0], p[:, :, 1]
    x = torch.zeros_like(across)
    x[..., 1:] += across[..., :-1]
    x[..., :-1] -= across[..., :-1]
    x[..., 1:, :] += down[..., :-1, :]
    x[..., :-1, :] -= down[..., :-1, :]
    return x


def total_variation(x: Tensor) -> Tensor:
    """Return the isotropic total variation, with the channels of a pixel in one norm, (R,)."""
    return gradient(x).square().sum((1, 2)).sqrt().flatten(1).sum(1)


def shrunk(p: Tensor, radius: Tensor) -> Tensor:
    """Return the nearest dual field with a norm of at most the row's radius at every pixel."""
    size = p.square().sum((1, 2), keepdim=True).sqrt()
    radius = spread_out(radius, p)
    return p * (radius / torch.maximum(size, radius).clamp_min(1e-30))


@torch.no_grad()
def minimise_tv(
    rows: LinearRows,
    masks: Leaves,
    prior_image: Tensor,
    weight: Tensor,
    strength: Tensor,
    steps: int,
    start: Tensor | None = None,
) -> Tensor:
    """Minimise 1/2 |A x - y|² + λ [ (1 - a) TV(x) + a TV(x - x_prior) ] over images x.

    By the primal-dual method of Condat 2013 (J. Optim. Theory Appl. 158, 460-479, algorithm 3.1),
    with step sizes of each row.

    Parameters
    ----------
    rows : LinearRows
        A and y of R rows.
    masks : list of Tensor
        Weights (R, ...) of the entries of y, in [0, 1].
    prior_image : Tensor
        G(u^), (R, C, H, W).
    weight, strength : Tensor
        a in [0, 1] and λ > 0, each (R,).
    steps : int
        Number of iterations.
    start : Tensor, optional
        Image to start from (R, C, H, W); the default is ``prior_image``.

    Returns
    -------
    Tensor
        Images (R, C, H, W).
    """
    x = prior_image if start is None else start
    jumps = gradient(prior_image)
    # Both dual fields are bounded by λ, so their steps are in its proportion. τ makes the
    # iteration converge: τ (|A|² / 2 + σ |∇|²) < 1, with |∇|² = 8 for each of the two fields.
    sigma = torch.minimum((10 * strength).clamp_min(1e-3 * rows.norm2), rows.norm2)
    tau = spread_out(0.99 / (rows.norm2 / 2 + 16 * sigma), x)
    sigma = spread_out(sigma, jumps)
    plain = torch.zeros_like(jumps)
    towards = torch.zeros_like(jumps)
    for _ in range(steps):
        weighted = [r * m for r, m in zip(rows.residual(x), masks, strict=True)]
        following = x - tau * (rows.adjoint(weighted) + gradient_adjoint(plain + towards))
        slope = gradient(2 * following - x)
        plain = shrunk(plain + sigma * slope, strength * (1 - weight))
        towards = shrunk(towards + sigma * (slope - jumps), strength * weight)
        x = following
    return x
