"""Checks of what a prior is built from and called with: sizes and shapes."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from gprior.checks import InputError

__all__ = ["State", "check_entry", "check_shape", "check_sizes", "whole"]

State = tuple[Tensor, Tensor]  # what passes from a block to the next: (features, rgb)
SIDES = tuple(2**k for k in range(4, 11))


def check_sizes(config: dict[str, Any]) -> int:
    """Refuse sizes that are no StyleGAN2; return log2 of the resolution."""
    side = config["img_resolution"]
    if not isinstance(side, int) or side not in SIDES:
        raise InputError(f"img_resolution must be a power of two from 16 to 1024, got {side!r}")
    if config["img_channels"] not in (1, 3):
        raise InputError(f"img_channels must be 1 or 3, got {config['img_channels']}")
    for name, least, most in (
        ("z_dim", 1, 1 << 14),
        ("w_dim", 1, 1 << 14),
        ("c_dim", 0, 1 << 16),
        ("channel_base", 1, 1 << 20),
        ("channel_max", 1, 1 << 14),
        ("num_mapping_layers", 1, 64),
    ):
        if not isinstance(config[name], int) or not least <= config[name] <= most:
            raise InputError(
                f"{name} must be an integer from {least} to {most}, got {config[name]!r}"
            )
    clamp = config.get("conv_clamp")
    if clamp is not None and not (isinstance(clamp, (int, float)) and 0 < clamp < math.inf):
        raise InputError(f"conv_clamp must be positive and finite, or None, got {clamp!r}")
    log2 = int(side).bit_length() - 1
    widths = config.get("widths")
    if widths is not None and not (
        isinstance(widths, (list, tuple))
        and len(widths) == log2 - 1
        and all(isinstance(n, int) and 1 <= n <= 1 << 14 for n in widths)
    ):
        raise InputError(f"widths must be {log2 - 1} integers from 1 to {1 << 14}, or None")
    return log2


def check_entry(from_block: int, state: State | None, blocks: int) -> None:
    """Refuse to start at a block that is none, or between blocks without a state."""
    if not 0 <= from_block < blocks:
        raise InputError(f"from_block must be between 0 and {blocks - 1}")
    if (from_block > 0) != (state is not None):
        raise InputError("from_block > 0 and state=(features, rgb) go together: give both")


def check_shape(
    name: str, given: Tensor, shape: tuple[int, ...], batch: tuple[int, ...] = ()
) -> None:
    """Refuse a tensor whose shape is not (B, *shape), with B among ``batch`` if given."""
    if tuple(given.shape[1:]) != shape or given.ndim != len(shape) + 1:
        want = ", ".join(str(s) for s in shape)
        raise InputError(f"{name} must have shape (B, {want}), got {tuple(given.shape)}")
    if batch and len(given) not in batch:
        want = " or ".join(str(n) for n in dict.fromkeys(batch))
        raise InputError(f"{name} must have a batch of {want}, got {len(given)}")


def whole(name: str, value: Any, least: int, most: int) -> int:
    """Return an integer, refused where it is none or out of range."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{name} must be an integer from {least} to {most}, got {value!r}")
    return value
