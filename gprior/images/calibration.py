"""The size of a pixel in a TIFF, PNG or JPEG, and the tags of it that a derived TIFF keeps."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["pixel_size", "size_of_dots", "tiff_calibration"]

# The tags of a TIFF that say where and how large its pixels are: ImageDescription, in which
# microscopes and ImageJ write units, XResolution, YResolution, XPosition, YPosition,
# ResolutionUnit. X and Y change places when the image is turned.
_TAGS = {270: 270, 282: 283, 283: 282, 286: 287, 287: 286, 296: 296}
_COUNTS = ("images=", "slices=", "frames=", "channels=", "hyperstack=", "loop=")
# Millimetres in the units of ImageJ and OME; ImageJ escapes the letter mu.
_UNITS = {"nm": 1e-6, "um": 1e-3, "micron": 1e-3, "microns": 1e-3, "mm": 1.0, "cm": 10.0}
_UNITS |= {"m": 1000.0, "inch": 25.4, "inches": 25.4, "in": 25.4}
_MU = re.compile(r"\\u00B5|(?:\u00c2)?\u00b5|\u00ce\u00bc|\u03bc", re.IGNORECASE)


def pixel_size(size: Sequence[float] | None, unit: str = "mm") -> dict[str, Any]:
    """Return the entries of `ImageFile.geometry` for height and width of a pixel.

    There are none if the size is not known or not valid. The unit is "mm" or "unknown".
    """
    if size is None or not all(math.isfinite(value) and value > 0 for value in size):
        return {}
    return {"spacing": [float(value) for value in size], "spacing_unit": unit}


def size_of_dots(rows: float, columns: float, scale: float | None) -> dict[str, Any]:
    """Return the size of a pixel from resolutions per length of `scale` millimetres."""
    if min(rows, columns) <= 0:
        return {}
    unit = "unknown" if scale is None else "mm"
    return pixel_size(((scale or 1.0) / rows, (scale or 1.0) / columns), unit)


def tiff_calibration(
    tags: Mapping[int, Any], first: Mapping[int, Any], turned: bool, pages: int
) -> tuple[dict[int, Any], dict[str, Any]]:
    """Return the tags that a derived TIFF of one page keeps, and the size of a pixel.

    Parameters
    ----------
    tags, first : mapping
        The tags of the page, and those of the first page, which has the text of ImageJ or OME.
    turned : bool
        Whether rows and columns were exchanged.
    pages : int
        Number of pages of the source.
    """
    kept = {other if turned else tag: tags[tag] for tag, other in _TAGS.items() if tag in tags}
    if not all(math.isfinite(kept.get(tag, 1)) and kept.get(tag, 1) > 0 for tag in (282, 283)):
        kept = {tag: value for tag, value in kept.items() if tag not in (282, 283)}
    text, general = _text(kept.pop(270, None)), _text(first.get(270))
    is_ome = "<OME" in general
    if not text and (is_ome or general.startswith("ImageJ=")):
        text = general
    size = _size_in_ome(general, turned) if is_ome else {}
    if not size and {282, 283} <= set(kept):
        scale = {2: 25.4, 3: 10.0}.get(kept.get(296, 2))
        if scale is None and (unit := re.search(r"^unit=(.*)$", text, re.MULTILINE)):
            scale = _length(unit[1])
        size = size_of_dots(float(kept[283]), float(kept[282]), scale)
    if pages > 1 and text.startswith("ImageJ="):
        # A description that counts the pages of the source would be wrong beside one page.
        lines = text.splitlines(keepends=True)
        text = "".join(line for line in lines if not line.startswith(_COUNTS))
    elif pages > 1 and text.lstrip().startswith(("<", "{")):
        text = ""
        if is_ome and size:  # in pixels per centimetre, because the text is gone
            height, width = size["spacing"]
            kept |= {282: 10.0 / width, 283: 10.0 / height, 296: 3}
    if text.strip():
        kept[270] = text.encode("latin-1", "replace")  # as Pillow decoded it, so no byte changes
    return kept, size


def _text(value: Any) -> str:
    """Return a description, which some programs store as bytes."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return text.rstrip("\0") if isinstance(text, str) else ""


def _length(unit: str) -> float | None:
    """Return the millimetres of a unit, or None if it is none of length."""
    return _UNITS.get(_MU.sub("u", unit.strip()))


def _size_in_ome(text: str, turned: bool) -> dict[str, Any]:
    """Return the size of a pixel that OME-XML states."""
    size = []
    for axis in "XY" if turned else "YX":
        value = re.search(rf'PhysicalSize{axis}="([-+.\deE]+)"', text)
        unit = re.search(rf'PhysicalSize{axis}Unit="([^"]*)"', text)
        length = _length(unit[1]) if unit else _UNITS["um"]
        if value is None or length is None:
            return {}
        try:
            size.append(float(value[1]) * length)
        except ValueError:
            return {}
    return pixel_size(size)
