"""A classical method to compare with: total variation."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["total_variation"]


@torch.no_grad()
def total_variation(
    y: Tensor, A: torch.nn.Module, weight: float, steps: int = 200, inner: int = 10
) -> Tensor:
    """Minimise 1/2 |A x - y|^2 + weight TV(x) by accelerated proximal gradients.

    The proximal step is deepinv's ``TVDenoiser`` (isotropic). Each one starts from the solution of
    the one before.

    Parameters
    ----------
    y : Tensor
        Measurements (B, ...).
    A : LinearPhysics
        The operator.
    weight : float
        Weight of the total variation, in the units of y.
    steps, inner : int
        Number of gradient steps, and of iterations in each proximal step.

    Returns
    -------
    Tensor
        Images (B, C, H, W) in [0, 1]; complex images (C = 2) are not clamped.

    References
    ----------
    Beck and Teboulle 2009, "A fast iterative shrinkage-thresholding algorithm for linear
    inverse problems" (FISTA, section 4).

    Examples
    --------
    >>> from gprior.operators import Masking
    >>> A = Masking((1, 4, 4), "box", box=(1, 1, 2, 2))
    >>> x = torch.full((1, 1, 4, 4), 0.5)
    >>> bool((total_variation(A(x), A, 0.01) - x).abs().max() < 0.01)
    True
    """
    from deepinv.models import TVDenoiser

    # Not from the pseudo-inverse: that of a blurred image is mostly noise, and stays so for long.
    x = previous = ahead = A.A_adjoint(y)  # type: ignore[operator]
    with torch.random.fork_rng(devices=[y.device] if y.is_cuda else []):
        torch.manual_seed(0)  # deepinv draws the start of its power iteration from this stream
        step = 1 / float(A.compute_sqnorm(x[:1], verbose=False))  # type: ignore[operator]
    # No stopping criterion (crit=0), because it would couple the images of the batch. tau is the
    # step size inside the proximal step: at deepinv's default of 0.01, images in [0, 1] need ten
    # times the iterations.
    prox = TVDenoiser(n_it_max=inner, crit=0.0, tau=0.1)
    t = 1.0
    for _ in range(steps):
        gradient = A.A_adjoint(A.A(ahead) - y)  # type: ignore[operator]
        x = prox(ahead - step * gradient, weight * step)
        following = (1 + (1 + 4 * t**2) ** 0.5) / 2
        ahead, previous, t = x + (t - 1) / following * (x - previous), x, following
    image: Tensor = x if x.shape[1] == 2 else x.clamp(0, 1)
    return image
