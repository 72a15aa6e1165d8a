"""Random weights of a network before training."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["random_weights"]


def random_weights(*shape: int, divisor: float = 1.0) -> Tensor:
    """Return Gaussian weights of mean 0 from torch's global random stream.

    On the meta device, where a network has shapes and no values, nothing is drawn or divided:
    PyTorch would import its compiler for it, which takes longer than reading a checkpoint.

    Parameters
    ----------
    *shape : int
        Size along each dimension.
    divisor : float
        The standard deviation is ``1 / divisor``.

    Returns
    -------
    Tensor
        Weights of this shape, on the default device and of the default dtype.
    """
    weights = torch.empty(shape, dtype=torch.float32)  # the same numbers under any default dtype
    if not weights.is_meta:
        weights = weights.normal_().div_(divisor)
    return weights.to(torch.get_default_dtype())
