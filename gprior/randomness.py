"""What makes an answer depend on its arguments alone: keyed draws, and calls in torch's own mode.

The key of a draw is (image seed, restart, name of the draw, step). Numbers come from a CPU
generator seeded from a hash of the key and are then moved. So a draw does not depend on what was
drawn before, and batch order, refilled rows, splitting after out-of-memory and resuming change
nothing.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from operator import index
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["Key", "generator", "in_plain_mode", "normal", "uniform"]

Key = Sequence[int | str]
Function = TypeVar("Function", bound=Callable[..., object])


def generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator seeded from ``key``.

    >>> a = torch.rand(2, generator=generator(0, "z", 3))
    >>> bool((a == torch.rand(2, generator=generator(0, "z", 3))).all())
    True
    """
    # NumPy's integers print unlike Python's: the same number has to be the same key.
    plain = tuple(part if isinstance(part, str) else index(part) for part in key)
    digest = hashlib.blake2b(repr(plain).encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little") >> 1)


def normal(keys: Iterable[Key], shape: Sequence[int], like: Tensor) -> Tensor:
    """Return standard normal numbers ``(rows, *shape)``, one key per row, placed as ``like``.

    They are drawn in float32 on the CPU whatever the dtype, the device and torch's defaults are,
    so that all of them see the same numbers.
    """
    rows = [
        torch.randn(tuple(shape), generator=generator(*key), dtype=torch.float32, device="cpu")
        for key in keys
    ]
    return torch.stack(rows).to(like)


def uniform(key: Key, shape: Sequence[int]) -> Tensor:
    """Return numbers from the uniform distribution on [0, 1), in float32 on the CPU."""
    return torch.rand(tuple(shape), generator=generator(*key), dtype=torch.float32, device="cpu")


def in_plain_mode(function: Function) -> Function:
    """Decorate a function so that autocast and inference mode are off while it runs.

    The caller's modes come back afterwards. Both belong to a thread, so other threads do not
    notice. Gradients need no such care: what needs them switches them on.

    Examples
    --------
    >>> @in_plain_mode
    ... def product(a):
    ...     return a @ a
    >>> with torch.autocast("cpu", dtype=torch.bfloat16):
    ...     product(torch.ones(1, 1)).dtype
    torch.float32
    """

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> object:
        with ExitStack() as stack:
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            for kind in DEVICES:
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]


DEVICES = ("cpu", "cuda", "mps", "xpu")  # kinds of devices that torch has an autocast for
