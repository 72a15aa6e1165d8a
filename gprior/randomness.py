"""Keyed randomness: a draw is a function of its key, never of what was drawn before.

The key is (image seed, restart, name of the draw, step). Numbers come from a CPU
generator seeded from a hash of the key and are then moved, so that batch order,
refilled rows, splitting after out-of-memory and resuming change nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from operator import index

import torch
from torch import Tensor

__all__ = ["generator", "normal"]

Key = Sequence[int | str]


def generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator seeded from ``key``.

    >>> a = torch.rand(2, generator=generator(0, "z", 3))
    >>> bool((a == torch.rand(2, generator=generator(0, "z", 3))).all())
    True
    """
    # NumPy's integers print unlike Python's: the same number has to be the same key.
    plain = tuple(part if isinstance(part, str) else index(part) for part in key)
    digest = hashlib.blake2b(repr(plain).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def normal(keys: Iterable[Key], shape: Sequence[int], like: Tensor) -> Tensor:
    """Return standard normal numbers ``(rows, *shape)``, one key per row, placed as ``like``.

    Drawn in float32 whatever the dtype, so that float32 and float64 runs see the
    same numbers.
    """
    rows = [torch.randn(tuple(shape), generator=generator(*key)) for key in keys]
    return torch.stack(rows).to(like)
