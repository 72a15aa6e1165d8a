"""Resizes an image to the size of a prior, and a reconstruction back: `fit` and `unfit`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gprior.checks import InputError, integer, number

__all__ = ["fit", "is_square", "unfit"]


def is_square(spacing: Sequence[float]) -> bool:
    """Return whether height and width of a pixel differ by less than 0.1 %, as rounding does."""
    return max(spacing) < 1.001 * min(spacing)


def fit(
    array: ArrayLike,
    size: Sequence[int],
    mode: Literal["pad", "crop", "stretch"] = "pad",
    spacing: Sequence[float] | None = None,
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Resize an image.

    Resampling is bicubic, and antialiased where the image shrinks: the kernel is then wider.
    Pixels are areas, so the outer edges of the first and last pixels correspond. Values are
    computed in float32. The pixels of the result are square: an image whose pixels are 4 mm high
    and 1 mm wide becomes four times as high for its width.

    Parameters
    ----------
    array : array-like
        Shape (C, H, W).
    size : (int, int)
        Target height and width.
    mode : {"pad", "crop", "stretch"}
        ``"pad"`` keeps the proportions and the complete image, and adds zeros at two sides;
        ``"crop"`` keeps the proportions and cuts off two sides; ``"stretch"`` changes the
        proportions, whatever the spacing.
    spacing : (float, float), optional
        Height and width of a pixel of `array` in one unit, such as `ImageFile.spacing`. The
        default is square pixels.

    Returns
    -------
    array : ndarray, float64
        Shape ``(C, *size)``.
    record : dict
        What `unfit` needs, ready for JSON.

    Raises
    ------
    InputError
        If the array is not (C, H, W), the size not two positive integers, the mode unknown, or the
        spacing not two positive numbers.

    Examples
    --------
    >>> array, record = fit(np.ones((1, 30, 20)), (6, 6))
    >>> array[0, 3].tolist(), record["resized"], record["offset"]
    ([0.0, 1.0, 1.0, 1.0, 1.0, 0.0], [6, 4], [0, 1])
    >>> fit(np.ones((1, 30, 20)), (6, 6), spacing=(1.0, 3.0))[1]["resized"]
    [3, 6]
    """
    array = np.asarray(array, dtype=np.float64)
    if array.ndim != 3 or array.size == 0:
        raise InputError(f"array must be (C, H, W) and not empty, got shape {array.shape}")
    try:
        height, width = (integer("size", n, least=1) for n in size)
    except (TypeError, ValueError):
        raise InputError(f"size must be two positive integers (H, W), got {size!r}") from None
    target, original = [height, width], list(array.shape[1:])
    extent = [n * step for n, step in zip(original, _steps(spacing), strict=True)]
    ratios = [new / old for new, old in zip(target, extent, strict=True)]
    if mode == "stretch":
        resized = target
    elif mode in ("pad", "crop"):
        ratio = min(ratios) if mode == "pad" else max(ratios)
        resized = [max(1, round(length * ratio)) for length in extent]
    else:
        raise InputError(f"mode must be 'pad', 'crop' or 'stretch', got {mode!r}")
    # Where the first pixel of the resized image lies on the target; negative if it is cut off.
    offset = [math.trunc((new - n) / 2) for new, n in zip(target, resized, strict=True)]
    record = {
        "mode": mode,
        "original": original,
        "spacing": None if spacing is None else [float(value) for value in spacing],
        "size": target,
        "resized": resized,
        "offset": offset,
    }
    canvas, image = _overlap(record)
    result = np.zeros((len(array), *target))
    result[canvas] = _resize(array, resized)[image]
    return result, record


def _steps(spacing: Sequence[float] | None) -> tuple[float, float]:
    """Return height and width of a pixel in units of the smaller one."""
    if spacing is None:
        return 1.0, 1.0
    try:
        height, width = (number("spacing", value, above=0) for value in spacing)
    except (TypeError, ValueError):
        raise InputError(
            f"spacing must be the height and the width of a pixel, two positive numbers, got "
            f"{spacing!r}; without spacing, pixels are square"
        ) from None
    least = min(height, width)
    return (1.0, 1.0) if is_square((height, width)) else (height / least, width / least)


def unfit(array: ArrayLike, record: dict[str, Any]) -> NDArray[np.float64]:
    """Resize an image with the size that `fit` made back to the original size.

    Parameters
    ----------
    array : array-like
        Shape (C, H, W) with the size that `fit` was given.
    record : dict
        What `fit` returned.

    Returns
    -------
    ndarray, float64
        Shape (C, H0, W0) of the original. Pixels that ``"crop"`` cut off are 0.

    Raises
    ------
    InputError
        If the array does not have the recorded size.
    """
    array = np.asarray(array, dtype=np.float64)
    if array.ndim != 3 or list(array.shape[1:]) != record["size"]:
        raise InputError(
            f"array must be (C, H, W) with (H, W) = {tuple(record['size'])}, the size that fit "
            f"made, got shape {array.shape}"
        )
    canvas, image = _overlap(record)
    # The part that was cut off is first filled from the edge, so that resampling does not mix zeros
    # into the image. Then each pixel whose centre is in this part is set to zero.
    margins, outside = [(0, 0)], []
    for kept, full, n in zip(image[1:], record["resized"], record["original"], strict=True):
        margins.append((kept.start, full - kept.stop))
        centre = (np.arange(n) + 0.5) * full / n
        outside.append((centre < kept.start) | (centre > kept.stop))
    result = _resize(np.pad(array[canvas], margins, mode="edge"), record["original"])
    result[:, outside[0][:, None] | outside[1][None, :]] = 0
    return result


_Window = tuple[slice, slice, slice]


def _overlap(record: dict[str, Any]) -> tuple[_Window, _Window]:
    """Return the windows of the target and of the resized image that show the same pixels."""
    canvas, image = [slice(None)], [slice(None)]
    for n, full, offset in zip(record["size"], record["resized"], record["offset"], strict=True):
        start, stop = max(0, offset), min(n, offset + full)
        canvas.append(slice(start, stop))
        image.append(slice(start - offset, stop - offset))
    return (canvas[0], canvas[1], canvas[2]), (image[0], image[1], image[2])


def _resize(array: NDArray[np.float64], size: Sequence[int]) -> NDArray[np.float64]:
    """Resample every channel to the size (H, W)."""
    if list(array.shape[1:]) == list(size):
        return np.array(array)
    from PIL import Image

    def resized(channel: NDArray[np.float64]) -> NDArray[np.float64]:
        picture = Image.fromarray(channel.astype(np.float32))
        picture = picture.resize((size[1], size[0]), Image.Resampling.BICUBIC)
        return np.asarray(picture, dtype=np.float64)

    return np.stack([resized(channel) for channel in array])
