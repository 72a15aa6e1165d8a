"""Stored values of a DICOM frame, their bit layout, their padding and their physical scale.

A file states all of these in its header (PS3.3, C.7.6.3, C.7.5.1.1.2, C.11.1, C.7.6.16.2.11).
Nothing is assumed: what is contradictory, or cannot be inverted when writing, is refused by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gprior.images.raster import ImageFileError

__all__ = ["Scale", "items", "macro", "physical_scale", "read_values", "text_bytes"]


@dataclass(frozen=True)
class Scale:
    """Physical value = slope * stored value + intercept.

    ``units`` is the entry Units of PET that belongs to it, where it is not that of the file.
    """

    slope: float = 1.0
    intercept: float = 0.0
    units: str | None = None


def items(data: Any, frame: int, sequence: str) -> list[Any]:
    """Return the items of a sequence that hold for a frame; none if it is empty or missing.

    They are those of the frame's own group, else of the group that all frames share, else of the
    file.
    """
    for groups, index in (("PerFrameFunctionalGroups", frame), ("SharedFunctionalGroups", 0)):
        group = data.get(f"{groups}Sequence")
        if group and group[index].get(sequence):
            return list(group[index][sequence])
    return list(data.get(sequence) or ())


def macro(data: Any, frame: int, sequence: str) -> Any:
    """Return the data set with the attributes of a frame: an item of `sequence`, or the file."""
    found = items(data, frame, sequence)
    return found[0] if found else data


def text_bytes(data: Any, keyword: str) -> bytes:
    """Return the text of an element as it is in the file, without decoding it."""
    if keyword not in data:
        return b""
    value = data.get_item(keyword).value or b""
    return (value if isinstance(value, bytes) else str(value).encode()).strip(b" \0")


# --- Stored values ---------------------------------------------------------------------------


def read_values(path: Path, data: Any, frame: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return the stored values (H, W) or (H, W, 3) of a frame, and where they are padding."""
    from pydicom.pixels import apply_color_lut, pixel_array

    if data.get("PixelRepresentation", 0) not in (0, 1):
        raise ImageFileError(
            f"{path} has PixelRepresentation {data.PixelRepresentation}, which must be 0 or 1; "
            "correct the tag, or convert the file to .npy"
        )
    bits, high, size = int(data.BitsStored), int(data.HighBit), int(data.BitsAllocated)
    if not 0 < bits <= high + 1 <= size:
        raise ImageFileError(
            f"{path} states an impossible bit layout: BitsAllocated {size}, BitsStored {bits}, "
            f"HighBit {high}; correct the tags, or convert the file to .npy"
        )
    # Without the correction of pydicom, which takes the unused bits to be the upper ones.
    words = pixel_array(data, index=frame, correct_unused_bits=False)
    gray = data.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2")
    padding = _padding(data, words) if gray else None
    stored = _unpacked(path, data, words, padding)
    if data.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, data)
        if stored.dtype.itemsize > 1:
            stored = (stored >> 8).astype(np.uint8)
    return stored, padding


def _unpacked(
    path: Path, data: Any, words: NDArray[Any], padding: NDArray[np.bool_] | None
) -> NDArray[Any]:
    """Return the values that are in the bits BitsStored up to HighBit of each word."""
    bits, high, size = int(data.BitsStored), int(data.HighBit), int(data.BitsAllocated)
    if bits == size:
        return words
    # The bits of the value are moved to the upper end of the word, and then to the lower one,
    # which repeats the sign.
    values = (words << (size - 1 - high)) >> (size - bits)
    lower = np.array(2 ** (high + 1 - bits) - 1, words.dtype)
    top = words >> (high + 1)
    spare = ((top != 0) & (top != -1 if data.PixelRepresentation else True)) | (words & lower != 0)
    outside = False if padding is None else padding
    if np.any(spare & ~np.asarray(outside)) and not _has_overlay_bits(data):
        raise ImageFileError(
            f"{path} uses bits outside of the {bits} bits up to bit {high} that BitsStored and "
            "HighBit state, so its values are not certain; correct the tags, or convert the file "
            "to .npy"
        )
    return np.where(outside, words, values)


def _has_overlay_bits(data: Any) -> bool:
    """Return whether an overlay is stored in the bits that the pixels do not use (retired)."""
    return any(
        (group, 0x0102) in data and (group, 0x3000) not in data
        for group in range(0x6000, 0x6020, 2)
    )


def _padding(data: Any, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return which values are padding: a value, or a range up to PixelPaddingRangeLimit."""
    bits = int(data.BitsAllocated)

    def number(keyword: str) -> int | None:
        entry = data.get(keyword)
        if isinstance(entry, bytes) and entry:
            entry = int.from_bytes(entry, "little")
        if not isinstance(entry, int):
            return None
        value: int = entry % 2**bits  # a file can state it with the other sign
        return value - 2**bits if data.PixelRepresentation and value >= 2 ** (bits - 1) else value

    value = number("PixelPaddingValue")
    if value is None:
        return None
    limit = number("PixelPaddingRangeLimit")
    lo, hi = sorted((value, value if limit is None else limit))
    padding = (stored >= lo) & (stored <= hi)
    return padding if padding.any() else None


# --- Physical scale --------------------------------------------------------------------------


def physical_scale(path: Path, data: Any, frame: int) -> Scale:
    """Return the map from stored to physical values of a gray frame: HU, Gy, SUV, Bq/ml, ..."""
    if data.get("ModalityLUTSequence"):
        raise ImageFileError(
            f"{path} maps its values through a Modality LUT, which cannot be inverted when "
            "writing; convert it to .npy in physical units"
        )
    if data.get("Modality") == "RTDOSE" or data.get("DoseGridScaling") is not None:
        return _checked(path, "DoseGridScaling", data.get("DoseGridScaling"), 0)
    if data.get("SegmentationType") == "FRACTIONAL":
        most = data.get("MaximumFractionalValue")
        return _checked(path, "MaximumFractionalValue", 1 / most if most else None, 0)
    values = macro(data, frame, "PixelValueTransformationSequence")
    slope, intercept = values.get("RescaleSlope"), values.get("RescaleIntercept")
    scale = _checked(path, "RescaleSlope", *(_or(slope, 1), _or(intercept, 0)))
    counts = data.get("Modality") == "PT" and data.get("Units") == "CNTS"
    maps = items(data, frame, "RealWorldValueMappingSequence")
    if maps and (counts or scale == Scale()):
        return _real_world(path, maps)
    return _activity(path, data, scale) if counts else scale


def _or(value: Any, default: float) -> Any:
    return default if value is None or value == "" else value


def _checked(path: Path, name: str, slope: Any, intercept: Any) -> Scale:
    """Return a scale if it can be inverted."""
    try:
        scale = Scale(float(slope), float(intercept))
    except (TypeError, ValueError):
        scale = Scale(math.nan)
    if scale.slope == 0 or not math.isfinite(scale.slope) or not math.isfinite(scale.intercept):
        raise ImageFileError(
            f"{path} has no valid scaling to physical units: {name} must be a finite number that "
            "is not zero; correct the tags, or convert the file to .npy"
        )
    return scale


def _real_world(path: Path, maps: list[Any]) -> Scale:
    """Return the linear map of RealWorldValueMappingSequence."""
    found = {(m.get("RealWorldValueSlope"), m.get("RealWorldValueIntercept")) for m in maps}
    if len(found) > 1 or any(None in pair for pair in found):
        raise ImageFileError(
            f"{path} has a RealWorldValueMappingSequence with several maps or a look-up table, "
            "so its physical scaling is not one line; convert it to .npy in physical units"
        )
    return _checked(path, "RealWorldValueSlope", *found.pop())


def _activity(path: Path, data: Any, scale: Scale) -> Scale:
    """Return the scale of PET in counts: to SUV or Bq/ml by the factors that Philips stores."""
    for element, units in ((0x00, "GML"), (0x09, "BQML")):
        try:
            value = data.private_block(0x7053, "Philips PET Private Group")[element].value
            factor = float(value.decode() if isinstance(value, bytes) else value)
        except (KeyError, TypeError, ValueError):
            continue
        if factor > 0 and math.isfinite(factor):
            return Scale(scale.slope * factor, scale.intercept * factor, units)
    raise ImageFileError(
        f"{path} is PET in counts (Units CNTS) without a factor to SUV or Bq/ml, so its physical "
        "scaling is unknown; convert it to .npy in the units that you need"
    )
