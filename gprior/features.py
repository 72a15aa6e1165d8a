"""Perceptual distance on the features of any network, one value per image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["feature_distance", "median_distance"]

Features = Callable[[Tensor], Sequence[Tensor]]


def feature_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Return sum over layers of the mean squared difference of unit feature vectors, (B,).

    Features (B, C, H, W) are normalised along the channels at each position, as in
    LPIPS (Zhang et al. 2018, arXiv:1801.03924, equation 1) without its learnt weights.
    """
    total = torch.zeros(())
    for f, g in zip(a, b, strict=True):
        total = total.to(f) + (unit(f) - unit(g)).square().sum(1).mean((1, 2))
    return total


def unit(f: Tensor) -> Tensor:
    """Scale feature vectors to unit length along the channels."""
    return f * torch.rsqrt(f.square().sum(1, keepdim=True) + 1e-8)


@torch.no_grad()
def median_distance(features: Features, images: Tensor) -> float:
    """Return the median distance over consecutive pairs of images (2 N, C, H, W) in [0, 1].

    It is the unit of a perceptual term, so that a weight means the same for every
    feature extractor.
    """
    distances = [
        feature_distance(features(images[i : i + 1]), features(images[i + 1 : i + 2]))
        for i in range(0, len(images) - 1, 2)
    ]
    return float(torch.cat(distances).median())
