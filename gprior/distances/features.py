"""The distance between two images on the features of any network, one value per image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.checks import InputError

__all__ = ["FeatureDistance", "feature_distance", "median_distance"]

Features = Callable[[Tensor], Sequence[Tensor]]


class FeatureDistance:
    """The weighted mean squared difference of unit feature vectors, summed over layers.

    At each position, the feature vector of a map (B, C, h, w) is scaled to length 1, as in
    LPIPS (Zhang et al. 2018, arXiv:1801.03924, equation 1)::

        d(a, b) = Σ_l  1 / (h_l w_l)  Σ_hw  |√weights_l ⊙ (u_l(a) - u_l(b))|²

    Parameters
    ----------
    features : callable
        Maps images (B, C, H, W) in [0, 1] to feature maps, each (B, C_l, h_l, w_l).
    weights : sequence of Tensor, optional
        For each layer, the weights (C_l,) of its channels, not negative; with None, all
        channels have the same weight.
    name : str, optional
        Name for records; with None, that of the function or of its type.

    Examples
    --------
    >>> edges = FeatureDistance(lambda x: [x.diff(dim=3), x.diff(dim=2)], name="edges")
    >>> x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> edges(x, x).tolist(), bool((edges(x, x.flip(3)) > 0).all())
    ([0.0, 0.0, 0.0], True)
    """

    eps = 1e-8  # added to the squared length of a feature vector

    def __init__(
        self,
        features: Features,
        weights: Sequence[Tensor] | None = None,
        name: str | None = None,
    ) -> None:
        self.features, self.weights = features, weights
        self.name = name or str(getattr(features, "__name__", type(features).__name__))

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the normalised and weighted maps that `feature_distance` compares."""
        maps = list(self.features(images))
        units = [f * torch.rsqrt(f.square().sum(1, keepdim=True) + self.eps) for f in maps]
        if self.weights is None:
            return units
        pairs = zip(units, self.weights, strict=True)
        return [u * w.to(u).sqrt()[:, None, None] for u, w in pairs]

    def __call__(self, a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the distance between each image of a and that of b, (B,).

        Parameters
        ----------
        a, b : Tensor
            Images (B, C, H, W) in [0, 1].
        mask : Tensor, optional
            Weights of the pixels (B, 1, H, W), or (1, 1, H, W) for all images. They are not
            negative, and each image has at least one above 0; see `feature_distance`.

        Raises
        ------
        ValueError
            If the shapes differ, or a mask is negative or empty.
        """
        if a.shape != b.shape or a.ndim != 4:
            raise InputError(
                "a and b must be images of one shape (B, C, H, W), "
                f"got {tuple(a.shape)} and {tuple(b.shape)}"
            )
        if mask is not None:
            shapes = [(n, 1, *a.shape[2:]) for n in (len(a), 1)]
            if tuple(mask.shape) not in shapes:
                raise InputError(
                    f"mask must have shape {shapes[0]} or {shapes[1]}, got {tuple(mask.shape)}"
                )
            if not bool((mask >= 0).all() & (mask.flatten(1).sum(1) > 0).all()):
                raise InputError(
                    "mask must not be negative, and must have a pixel above 0 in each image"
                )
            mask = mask.to(a)
        return feature_distance(self.maps(a), self.maps(b), mask)


def feature_distance(
    a: Sequence[Tensor], b: Sequence[Tensor], mask: Tensor | None = None
) -> Tensor:
    """Return the mean squared difference of feature maps, summed over layers, (B,).

    Parameters
    ----------
    a, b : sequence of Tensor
        Maps from `FeatureDistance.maps`, each (B, C_l, h_l, w_l).
    mask : Tensor, optional
        Weights m of the pixels (B or 1, 1, H, W), not negative. Resized to each layer, they
        are the weights of its positions (Huh et al. 2020, arXiv:2005.01703, equation 7)::

            Σ_l  1 / M_l  Σ_hw  m_l |Δ_l|²,     M_l = Σ_hw m_l

        The mask is resized bilinearly with antialiasing, so that a few pixels are not lost
        between the positions of a coarse layer. A mask of ones changes nothing.
    """
    total = a[0].new_zeros(())
    for f, g in zip(a, b, strict=True):
        squares = (f - g).square().sum(1, keepdim=True)
        if mask is None:
            part = squares.mean((1, 2, 3))
        else:
            m = F.interpolate(mask, size=squares.shape[2:], mode="bilinear", antialias=True)
            part = (m * squares).sum((1, 2, 3)) / m.sum((1, 2, 3))
        total = total + part
    return total


@torch.no_grad()
def median_distance(features: Features | FeatureDistance, images: Tensor) -> float:
    """Return the median distance between the two images of consecutive pairs.

    On samples of a prior, this is the unit of a perceptual term: a weight then means the same
    for every feature extractor.

    Parameters
    ----------
    features : callable or FeatureDistance
        A distance, or the function images -> feature maps of one.
    images : Tensor
        (2 N, C, H, W) in [0, 1]: images 0 and 1 are a pair, 2 and 3, and so on.
    """
    distance = features if isinstance(features, FeatureDistance) else FeatureDistance(features)
    pairs = zip(images[::2].split(1), images[1::2].split(1), strict=True)  # type: ignore[no-untyped-call]
    return float(torch.cat([distance(a, b) for a, b in pairs]).median())
