"""Magnetic resonance imaging: sampled Fourier coefficients of complex images, by deepinv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import deepinv
import torch
from torch import Tensor

from gprior.checks import InputError, integer, number
from gprior.operators.base import checked_img_size
from gprior.randomness import generator

__all__ = ["mri", "mri_mask"]

PATTERNS = ("uniform", "random", "poisson")


def mri_mask(
    size: Sequence[int],
    acceleration: int,
    center: float | None = None,
    pattern: str = "random",
    seed: int = 0,
) -> Tensor:
    """Return which entries of k-space are sampled.

    Parameters
    ----------
    size : sequence of int
        Size (H, W) of the image. Zero frequency is at (H // 2, W // 2). The readout runs along H:
        ``"uniform"`` and ``"random"`` sample whole columns.
    acceleration : int
        One in ``acceleration`` columns or points is sampled, the centre included.
    center : float, optional
        Share of the columns (of the rows, too, for ``"poisson"``) that are all sampled, about
        zero frequency; default 0.08, or 0.04 from an acceleration of 8 on.
    pattern : {"uniform", "random", "poisson"}
        Equally spaced columns; columns drawn at random, as in fastMRI (Zbontar et al. 2018,
        section 6); or a Poisson disc of variable density in both directions, which needs sigpy.
    seed : int
        Seed of the draw. The global seed has no influence.

    Returns
    -------
    Tensor
        (H, W), float32, 1 where k-space is sampled and 0 elsewhere.

    Raises
    ------
    InputError
        If a number is out of range, the pattern is unknown, or sigpy is missing.

    Examples
    --------
    >>> mask = mri_mask((64, 64), 4)
    >>> int(mask[0].sum()), bool((mask == mask[0]).all())
    (16, True)
    """
    height, width = checked_img_size((1, *size))[1:]
    acceleration = integer("acceleration", acceleration, least=1, most=width // 2)
    if pattern not in PATTERNS:
        raise InputError(f"pattern must be one of {', '.join(PATTERNS)}, got {pattern!r}")
    center = (0.08 if acceleration < 8 else 0.04) if center is None else center
    center = number("center", center, least=0, most=1)
    if acceleration == 1:
        return torch.ones(height, width, dtype=torch.float32, device="cpu")
    columns = int(center * width)
    if columns >= width // acceleration:
        raise InputError(
            f"center must be below 1 / acceleration, so that lines are left for the rest of "
            f"k-space; got center={center:g} and acceleration={acceleration} for {width} columns"
        )
    if pattern == "poisson":
        return _poisson((height, width), acceleration, center, integer("seed", seed))
    kinds = deepinv.physics.generator
    kind = kinds.EquispacedMaskGenerator if pattern == "uniform" else kinds.RandomMaskGenerator
    draw = kind(
        (height, width), acceleration, center, rng=generator("mri mask", integer("seed", seed))
    )
    mask: Tensor = draw.step(batch_size=0)["mask"][0]
    return mask.to(torch.float32)


def _poisson(size: tuple[int, int], acceleration: int, center: float, seed: int) -> Tensor:
    try:
        from sigpy.mri import poisson
    except ImportError as error:
        raise InputError(
            "pattern='poisson' needs sigpy, which is not installed; "
            'pip install "gprior[mri]", or use pattern=random'
        ) from error
    calibration = tuple(max(1, int(center * length)) for length in size)
    try:
        mask = poisson(size, acceleration, calib=calibration, dtype=float, seed=seed % 2**32)
    except ValueError as error:
        raise InputError(
            f"pattern='poisson' has no mask for acceleration={acceleration} on a grid of "
            f"{size[0]} x {size[1]}; use a smaller acceleration or center, or pattern=random"
        ) from error
    return torch.as_tensor(mask, dtype=torch.float32)


def mri(mask: Tensor, maps: Tensor | None = None) -> Any:
    """Return deepinv's operator of MRI with one coil or several.

    Parameters
    ----------
    mask : Tensor
        (H, W), which entries of k-space are sampled.
    maps : Tensor, optional
        Sensitivities of the coils, complex, (coils, H, W).

    Returns
    -------
    deepinv.physics.MRI or deepinv.physics.MultiCoilMRI
        Acts on images (B, 2, H, W), the real and the imaginary part. Its measurements are
        (B, 2, H, W), or (B, 2, coils, H, W).

    Raises
    ------
    InputError
        If the shapes do not fit.
    """
    if mask.ndim != 2:
        raise InputError(f"mask must have shape (H, W), got {tuple(mask.shape)}")
    # deepinv reads the size of the image from the mask: two channels, real and imaginary.
    full = mask.to(torch.float32).expand(1, 2, -1, -1).contiguous()
    if maps is None:
        return deepinv.physics.MRI(mask=full)
    if maps.ndim != 3 or maps.shape[1:] != mask.shape or not maps.is_complex():
        height, width = mask.shape
        raise InputError(
            f"maps must be complex, of shape (coils, {height}, {width}), got {maps.dtype} "
            f"{tuple(maps.shape)}"
        )
    return deepinv.physics.MultiCoilMRI(
        mask=full, coil_maps=maps[None].to(torch.complex64), img_size=tuple(full.shape)
    )
