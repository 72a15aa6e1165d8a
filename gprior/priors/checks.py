"""Checks of the sizes that a prior is built from, and of the shapes that it is called with."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from torch import Tensor

from gprior.checks import InputError, integer, number

__all__ = ["State", "check_entry", "check_shape", "check_sizes"]

State = tuple[Tensor, Tensor]  # what one block passes to the next: (features, rgb)
SIDES = tuple(2**k for k in range(4, 11))


def check_sizes(config: dict[str, Any]) -> int:
    """Check the sizes of a StyleGAN2, and make them Python's integers in place.

    Parameters
    ----------
    config : dict
        Arguments of `gprior.priors.StyleGAN2` by name.

    Returns
    -------
    int
        log2 of the resolution.

    Raises
    ------
    ValueError
        If a size is out of range.
    """
    side = config["img_resolution"]
    if isinstance(side, bool) or not isinstance(side, Integral) or side not in SIDES:
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
        config[name] = integer(name, config[name], least, most)
    for name in ("img_resolution", "img_channels"):
        config[name] = int(config[name])
    if config.get("conv_clamp") is not None:
        number("conv_clamp", config["conv_clamp"], above=0)
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
    """Refuse a start at a block that does not exist, or after the first one without a state."""
    integer("from_block", from_block, 0, blocks - 1)
    if (from_block > 0) != (state is not None):
        raise InputError("from_block > 0 and state=(features, rgb) go together: give both")


def check_shape(
    name: str, given: Tensor, shape: tuple[int, ...], batch: tuple[int, ...] = ()
) -> None:
    """Refuse a tensor whose shape is not (B, *shape), or whose B is not in ``batch`` if given."""
    if tuple(given.shape[1:]) != shape or given.ndim != len(shape) + 1:
        want = ", ".join(str(s) for s in shape)
        raise InputError(f"{name} must have shape (B, {want}), got {tuple(given.shape)}")
    if batch and len(given) not in batch:
        want = " or ".join(str(n) for n in dict.fromkeys(batch))
        raise InputError(f"{name} must have a batch of {want}, got {len(given)}")
