"""How far the measurements let one trust the prior, judged by what the best image leaves of y.

The best image of a prior that contains the true one leaves little more of y than its noise. If it
leaves more, the prior is wrong here. No ground truth is needed to see this.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from gprior.problem import Leaves, Problem, entries
from gprior.randomness import normal

__all__ = [
    "misfit", "observed", "response", "root_mean_square", "smooth_image", "trust",
    "trust_in",
]  # fmt: skip

# Usual root mean square residual, in the limit of many measurements, as a share of the pixel range.
# Tuned on phantoms: images in range leave 0.1 to 0.6 %, and others 1.5 % and more.
RESIDUAL = 0.007
FREE = 500  # a search fits about as many entries of y by chance: few measurements leave less


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


def root_mean_square(leaves: Leaves, masks: Leaves) -> Tensor:
    """Return the root mean square of the entries of a mask, (R,)."""
    squares = [
        (leaf.abs().square() * mask).flatten(1).sum(1)
        for leaf, mask in zip(leaves, masks, strict=True)
    ]
    return (torch.stack(squares).sum(0) / entries(masks).clamp_min(1)).sqrt()


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
    return (1 + excess / usual).rsqrt()
