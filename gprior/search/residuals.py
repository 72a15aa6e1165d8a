"""How far the measurements let one trust the prior, judged by what the best image leaves of y.

The best image of a prior that contains the true one leaves little more of y than its noise. If it
leaves more, the prior is wrong here. No ground truth is needed to see this.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from gprior.problem import Leaves, Problem, entries, root_mean_square
from gprior.randomness import normal
from gprior.search.linear import LinearRows

__all__ = [
    "PROBES", "coarse_trust", "misfit", "observed", "probe", "regions", "response", "smooth_image",
    "trust", "trust_in",
]  # fmt: skip

# Usual root mean square residual, in the limit of many measurements, as a share of the pixel range.
# Tuned on phantoms: images in range leave 0.1 to 0.6 %, and others 1.5 % and more.
RESIDUAL = 0.007
FREE = 500  # a search fits about as many entries of y by chance: few measurements leave less
PROBES = 8  # random measurements, to see how noise appears in A^T y


def observed(problem: Problem) -> Leaves:
    """Return the weights of all entries of y that were measured, held-out ones too, (R, ...)."""
    return [fit + held for fit, held in zip(problem.fit, problem.held, strict=True)]


def smooth_image(problem: Problem) -> Tensor:
    """Return one smooth random image for all rows, (R, C, H, W)."""
    C, H, W = problem.forward.image_shape
    coarse = normal([(0, "smooth image")], (C, -(-H // 8), -(-W // 8)), problem.prior.like)
    image = interpolate(coarse, size=(H, W), mode="bilinear")
    return image.expand(len(problem), -1, -1, -1)


@torch.no_grad()
def response(problem: Problem) -> Tensor:
    """Return the units of y: its root mean square per that of a smooth image, (R,)."""
    x = smooth_image(problem)
    nothing = problem.measure(torch.zeros_like(x))
    size = x.square().flatten(1).mean(1).sqrt()
    differences = [a - b for a, b in zip(problem.measure(x), nothing, strict=True)]
    return (root_mean_square(differences, observed(problem)) / size).clamp_min(1e-30)


@torch.no_grad()
def misfit(problem: Problem, images: Tensor) -> Tensor:
    """Return what images (R, C, H, W) leave of y, in its noise level or else in its size, (R,)."""
    masks = observed(problem)
    left = [p - y for p, y in zip(problem.measure(images), problem.y, strict=True)]
    size = root_mean_square(problem.y, masks).clamp_min(1e-30)
    unit = torch.where(problem.noise_std > 0, problem.noise_std, size)
    return root_mean_square(left, masks) / unit


@torch.no_grad()
def trust_in(problem: Problem, images: Tensor) -> Tensor:
    """Return how far the prior is to be trusted, by what its best images leave of y, (R,)."""
    masks = observed(problem)
    left = [p - y for p, y in zip(problem.measure(images), problem.y, strict=True)]
    return trust(problem, root_mean_square(left, masks), masks, response(problem))


def trust(problem: Problem, residual: Tensor, masks: Leaves, units: Tensor) -> Tensor:
    """Return how far the prior is to be trusted, in (0, 1]: 1 where the residual is noise.

    Where it is much more, the trust is inversely proportional to it.

    Parameters
    ----------
    problem : Problem
        R rows.
    residual : Tensor
        Root mean square of y - A G(u) over the masks, (R,).
    masks : list of Tensor
        Weights (R, ...) of these entries.
    units : Tensor
        From `response`, (R,).
    """
    m = entries(masks).clamp_min(1)
    # The mean square of m normal numbers has the standard deviation sqrt(2 / m): three of them.
    noise = problem.noise_std.square() * (1 + 3 * (2 / m).sqrt())
    excess = (residual.square() - noise).clamp_min(0)
    usual = (RESIDUAL * units).square() * m / (m + FREE)
    return (1 + excess / usual.clamp_min(1e-30)).rsqrt()


@torch.no_grad()
def coarse_trust(rows: LinearRows, images: Tensor, masks: Leaves) -> Tensor:
    """Return how far the prior is to be trusted, by what its best images leave of regions, (R,).

    These are the means of A^T (A G(u) - y) over 8 x 8 pixels. Strong noise hides in single entries
    what the prior does not contain, and is averaged out in a region. The trust is 1 without noise.

    Parameters
    ----------
    rows : LinearRows
        A, linear, of R rows.
    images : Tensor
        G(u), (R, C, H, W).
    masks : list of Tensor
        Weights (R, ...) of the entries of y.
    """
    sigma2 = rows.problem.noise_std.square()
    if not bool((sigma2 > 0).any()):
        return torch.ones_like(sigma2)

    def power(leaves: Leaves) -> Tensor:
        seen = [leaf * mask for leaf, mask in zip(leaves, masks, strict=True)]
        return regions(rows.adjoint(seen)).square().flatten(1).mean(1)

    residual = rows.residual(images)
    noise = torch.stack([power(probe(k, residual, masks)) for k in range(PROBES)]).mean(0) * sigma2
    # As in `trust`: three standard deviations of the mean square of so many regions.
    noise = noise * (1 + 3 * (2 / regions(images)[0].numel()) ** 0.5)
    excess = (power(residual) - noise).clamp_min(0)
    x = smooth_image(rows.problem)
    usual = RESIDUAL**2 * power(rows.forward(x)) / regions(x).square().flatten(1).mean(1)
    return torch.where(sigma2 > 0, (1 + excess / usual.clamp_min(1e-30)).rsqrt(), 1.0)


def regions(x: Tensor) -> Tensor:
    """Return the means of images over regions of 8 x 8 pixels, (R, C, ceil(H/8), ceil(W/8))."""
    return avg_pool2d(x, min(8, *x.shape[2:]), ceil_mode=True)


def probe(k: int, like: Leaves, masks: Leaves) -> Leaves:
    """Return random numbers of N(0, 1) where masks are not 0, the same in each row."""
    keys = [(k, "correction", "probe")] * len(masks[0])
    return [
        normal(keys, mask.shape[1:], mask).to(leaf) * mask
        for leaf, mask in zip(like, masks, strict=True)
    ]
