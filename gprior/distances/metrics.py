"""Comparisons of a reconstruction with the ground truth.

They serve reports alone: no method chooses or stops by them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gprior.distances.lpips import locate, on_this_machine
from gprior.distances.random_features import random_distance

__all__ = ["perceptual_scores", "scores"]


@torch.no_grad()
def scores(images: Tensor, truth: Tensor) -> tuple[list[float], list[float]]:
    """Return PSNR in dB and SSIM of each image, computed by deepinv's metrics.

    Parameters
    ----------
    images, truth : Tensor
        (B, C, H, W), H and W at least 11. Values are clamped to [0, 1], and the peak is 1.

    Examples
    --------
    >>> x = torch.full((1, 1, 16, 16), 0.5)
    >>> [round(v, 3) for v in (*scores(x + 0.1, x)[0], *scores(x, x)[1])]
    [20.0, 1.0]
    """
    import deepinv

    pair = images.clamp(0, 1), truth.clamp(0, 1)
    return deepinv.metric.PSNR()(*pair).tolist(), deepinv.metric.SSIM()(*pair).tolist()


@torch.no_grad()
def perceptual_scores(
    images: Tensor, truth: Tensor, optimised: str | None = None
) -> tuple[str, list[float]]:
    """Return the perceptual distance of each image from the truth, and the name of the features.

    This is LPIPS on AlexNet if its weights are in torch hub's cache, and otherwise the distance
    on fixed random features. The two numbers cannot be compared, so report the name with them.
    A distance on the features that a method optimised would favour this method, so such
    features are never used.

    Parameters
    ----------
    images, truth : Tensor
        (B, C, H, W). Values are clamped to [0, 1].
    optimised : str, optional
        The features that the method optimised: `Result.features`.

    Returns
    -------
    name : str
        ``"lpips-alex"`` or ``"random-features"``.
    distances : list of float
        One per image, 0 where it equals the truth.

    Examples
    --------
    >>> x = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> perceptual_scores(x, x)[1]
    [0.0, 0.0]
    """
    alex = optimised != "lpips-alex" and locate("alex").is_file()
    distance = on_this_machine("alex") if alex else random_distance()
    return distance.name, distance(images.clamp(0, 1), truth.clamp(0, 1)).tolist()
