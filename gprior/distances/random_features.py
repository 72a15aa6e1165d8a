"""Features of a network that was never trained, for reports without any weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from gprior.distances.features import FeatureDistance
from gprior.distances.lpips import at_least, to_rgb
from gprior.randomness import generator

__all__ = ["random_distance", "random_maps"]


def random_maps(images: Tensor) -> list[Tensor]:
    """Return four layers of random features of images (B, C, H, W) in [0, 1].

    Each layer applies random orthogonal 3x3 filters, a ReLU and 2x average pooling; the first
    one sees the mean over channels. These features need no weights, and no method was trained
    or optimised on them.

    Parameters
    ----------
    images : Tensor
        (B, C, H, W), both sides at least 16 pixels.

    Returns
    -------
    list of Tensor
        Maps (B, 16, H/2, W/2), (B, 32, H/4, W/4), (B, 48, H/8, W/8) and (B, 48, H/16, W/16).
    """
    x, width, maps = images.mean(1, keepdim=True) - 0.25, 1, []
    for layer, n_out in enumerate((16, 32, 48, 48)):
        weight = torch.empty(n_out, width, 3, 3, dtype=torch.float32, device="cpu")
        nn.init.orthogonal_(weight, 1.7, generator=generator("random-features", layer))
        x = F.avg_pool2d(F.relu(F.conv2d(x, weight.to(x), padding=1)), 2)
        maps.append(x)
        width = n_out
    return maps


def random_distance() -> FeatureDistance:
    """Return the distance on `random_maps`, for the same images as `Perceptual`."""
    return FeatureDistance(lambda x: random_maps(at_least(to_rgb(x))), name="random-features")
