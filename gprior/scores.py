"""How near an image is to the truth; for reports alone, never for choosing or stopping."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["scores"]


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
