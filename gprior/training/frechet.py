"""A Fréchet distance on features that no training ever touched.

FID needs a pretrained Inception network, which cannot be assumed on a fresh
machine, and a discriminator's own features flatter the generator that was trained
against them. A small convolutional network with fixed random orthogonal filters
keeps the statistics that matter here (edges, textures and where they are).
The number means nothing alone: read it beside the real-versus-real value.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from scipy import linalg
from torch import Tensor

from gprior.distances import random_maps

__all__ = ["frechet_distance", "random_features"]


@torch.no_grad()
def random_features(images: Tensor) -> Tensor:
    """Return features (B, 240) of images (B, C, H, W) in [0, 1].

    Four layers of random orthogonal 3x3 filters, ReLU and 2x pooling; from each the
    mean of its feature maps, and from the last ones their means over quadrants.
    """
    first, second, *last = random_maps(images.float())
    means = [F.adaptive_avg_pool2d(x, 1).flatten(1) for x in (first, second)]
    return torch.cat([*means, *(_quadrants(x) for x in last)], 1)


def _quadrants(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 2)[:, ::2].flatten(1)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the Fréchet distance of Gaussians fitted to features a and b (N, d).

    Features are divided by their standard deviation in b, so that the distance is
    per unit of natural variation: ||m_a - m_b||^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)).
    Reference: Heusel et al. 2017, arXiv:1706.08500, equation 6.
    """
    u, v = a.double().cpu().numpy(), b.double().cpu().numpy()
    scale = v.std(0)
    alive = scale > 1e-3 * scale.max()  # not a filter that never responds
    u, v = u[:, alive] / scale[alive], v[:, alive] / scale[alive]
    cov_u, cov_v = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (u, v))
    # tr (S_a S_b)^(1/2) = sum of square roots of the eigenvalues of the symmetric R S_b R
    values, vectors = linalg.eigh(cov_u)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(linalg.eigvalsh(root @ cov_v @ root), 0, None)).sum()
    shift = ((u.mean(0) - v.mean(0)) ** 2).sum()
    return float(shift + np.trace(cov_u) + np.trace(cov_v) - 2 * cross)
