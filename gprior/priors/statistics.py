"""Statistics of a prior, kept for as long as its weights stay the same."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Statistics", "fingerprint", "sha256_of"]


class Statistics:
    """Statistics of one state of a prior's weights, by name.

    Parameters
    ----------
    weights : tuple
        The `fingerprint` of the weights.
    stored : mapping, optional
        Numbers that hold for every dtype and device, such as those from the prior's file.

    Attributes
    ----------
    measured : dict
        Values that were computed since then, in the present dtype and on the present device.
    """

    def __init__(
        self, weights: tuple[Hashable, ...] = (), stored: Mapping[str, float] | None = None
    ) -> None:
        self.weights = weights
        self.stored = dict(stored or {})
        self.measured: dict[str, Any] = {}


def fingerprint(module: nn.Module) -> tuple[Hashable, ...]:
    """Return a value that changes when a weight or a buffer of a module changes.

    PyTorch counts the in-place changes of a tensor, such as the steps of an optimizer. The
    address and the dtype show that a tensor was replaced. Nothing is read from the weights, so
    this takes under a millisecond.
    """
    return tuple(
        (t.data_ptr(), t.dtype, None if t.is_inference() else t._version)
        for t in chain(module.parameters(), module.buffers())
    )


def sha256_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors with their names, dtypes and shapes, in hexadecimal digits."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        data = tensor.detach().cpu().contiguous().flatten()
        sha.update(data.view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
