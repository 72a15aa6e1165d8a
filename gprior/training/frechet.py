"""A Fréchet distance between sets of images, on features of a network that is never trained.

The usual Fréchet distance (FID) needs a pretrained Inception network, which a fresh machine does
not have. The features of the discriminator would judge the generator too well, because the
generator was trained against them. The features here come from a small convolutional network with
fixed random orthogonal filters, which keeps the statistics that matter: edges, textures and their
places. The number has no meaning alone; compare it with the distance between real images.
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

    The network has four layers of random orthogonal 3x3 filters, ReLU and 2x pooling. The features
    are the means of the feature maps of the first two layers, and for the last two layers the
    means over each quadrant of every second feature map.
    """
    first, second, *last = random_maps(images.float())
    means = [F.adaptive_avg_pool2d(x, 1).flatten(1) for x in (first, second)]
    return torch.cat([*means, *(_quadrants(x) for x in last)], 1)


def _quadrants(x: Tensor) -> Tensor:
    """Return the means over quadrants of every second feature map."""
    return F.adaptive_avg_pool2d(x, 2)[:, ::2].flatten(1)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the Fréchet distance of Gaussians that are fitted to features a and b (N, d).

    The distance is ||m_a - m_b||^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) with means m and covariances
    S (Heusel et al. 2017, arXiv:1706.08500, equation 6). Features are first divided by their
    standard deviation in b, so that the unit of the distance is the natural variation of b.
    """
    u, v = a.double().cpu().numpy(), b.double().cpu().numpy()
    scale = v.std(0)
    varies = scale > 1e-3 * scale.max()  # leaves out filters that never respond
    u, v = u[:, varies] / scale[varies], v[:, varies] / scale[varies]
    cov_u, cov_v = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (u, v))
    # tr (S_a S_b)^(1/2) is the sum of the square roots of the eigenvalues of R S_b R, which is
    # symmetric, with R = S_a^(1/2).
    values, vectors = linalg.eigh(cov_u)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(linalg.eigvalsh(root @ cov_v @ root), 0, None)).sum()
    shift = ((u.mean(0) - v.mean(0)) ** 2).sum()
    return float(shift + np.trace(cov_u) + np.trace(cov_v) - 2 * cross)
