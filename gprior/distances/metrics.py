"""How near an image is to the truth; for reports alone, never for choosing or stopping."""

from __future__ import annotations

import torch
from torch import Tensor

from gprior.distances.lpips import locate, on_this_machine
from gprior.distances.random_features import random_distance

__all__ = ["perceptual_scores", "scores"]


@torch.no_grad()
def scores(found: Tensor, truth: Tensor) -> tuple[list[float], list[float]]:
    """Return PSNR in dB and SSIM of each image, by deepinv's metrics.

    Parameters
    ----------
    found, truth : Tensor
        (B, C, H, W), H and W at least 11; clamped to [0, 1], peak 1.

    Examples
    --------
    >>> x = torch.full((1, 1, 16, 16), 0.5)
    >>> [round(v, 3) for v in (*scores(x + 0.1, x)[0], *scores(x, x)[1])]
    [20.0, 1.0]
    """
    import deepinv

    pair = found.clamp(0, 1), truth.clamp(0, 1)
    return deepinv.metric.PSNR()(*pair).tolist(), deepinv.metric.SSIM()(*pair).tolist()


@torch.no_grad()
def perceptual_scores(
    found: Tensor, truth: Tensor, optimised: str | None = None
) -> tuple[str, list[float]]:
    """Return the perceptual distance of each image, and the name of the features it is on.

    LPIPS on AlexNet where its weights are in torch hub's cache, else the distance on fixed
    random features. The two are different numbers: report the name with them. A distance on
    the features that a method optimised would flatter it, so these are never taken.

    Parameters
    ----------
    found, truth : Tensor
        (B, C, H, W); clamped to [0, 1].
    optimised : str, optional
        Features that the method optimised: `Result.features`.

    Returns
    -------
    name : str
        ``"lpips-alex"`` or ``"random-features"``.
    distances : list of float
        One for each image; 0 for equal ones.

    Examples
    --------
    >>> x = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> perceptual_scores(x, x)[1]
    [0.0, 0.0]
    """
    alex = optimised != "lpips-alex" and locate("alex").is_file()
    distance = on_this_machine("alex") if alex else random_distance()
    return distance.name, distance(found.clamp(0, 1), truth.clamp(0, 1)).tolist()
