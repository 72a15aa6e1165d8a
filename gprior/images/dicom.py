"""Reads one frame of a DICOM file in physical units, with its place in the patient."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from gprior.images.calibration import pixel_size
from gprior.images.dicom_values import Scale, items, macro, physical_scale, read_values
from gprior.images.raster import (
    CONVERT,
    ImageFile,
    ImageFileError,
    check_size,
    pick,
    reading,
)

__all__ = ["read_dicom"]

AIR = -1024  # HU; a CT has smaller values only outside of the scanned circle


def read_dicom(path: Path, slice: int | None) -> ImageFile:
    """Read one frame of a DICOM file in physical units."""
    import pydicom

    remedy = (
        f"if its pixels are compressed, run `pip install pylibjpeg[all]` first; otherwise {CONVERT}"
    )
    with reading(path, "DICOM", remedy):
        data = pydicom.dcmread(path, force=True)
        if "PixelData" not in data:
            raise ImageFileError(
                f"{path} is a DICOM file without integer pixel data (a plan, a report, an index "
                "or an image of floats); give the file of an image with integer pixels"
            )
        check_size(path, int(data.Rows), int(data.Columns))
        frames = int(data.get("NumberOfFrames") or 1)
        frame = pick(path, slice, frames)
        if "TransferSyntaxUID" not in data.file_meta:
            data.file_meta.TransferSyntaxUID = _syntax(data)
        stored, background = read_values(path, data, frame)
        color = stored.ndim == 3
        scale = Scale() if color else physical_scale(path, data, frame)
        geometry = _dicom_geometry(data, frame, frames)
        geometry |= {"rescale_slope": scale.slope, "rescale_intercept": scale.intercept}
        if scale.units is not None:
            geometry["units"] = scale.units
        del data["PixelData"]
    pixels = stored.astype(np.float64) * scale.slope + scale.intercept
    if geometry["modality"] == "CT" and not color and (pixels < AIR).any():
        background = pixels < AIR if background is None else background | (pixels < AIR)
    return ImageFile(
        pixels=np.moveaxis(pixels, 2, 0).copy() if color else pixels[None],
        format="dicom",
        path=path,
        stored_dtype=stored.dtype.name,
        value_range=(0.0, float(2 ** geometry["bits_stored"] - 1)) if color else None,
        geometry=geometry,
        inverted=data.PhotometricInterpretation == "MONOCHROME1",
        background=None if background is None else background[None],
        _source=(data, frame),
    )


def _syntax(data: Any) -> Any:
    """Return the transfer syntax with which a file without a file-meta group was parsed."""
    from pydicom import uid

    implicit, little = data.original_encoding
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _dicom_geometry(data: Any, frame: int, frames: int) -> dict[str, Any]:
    """Return grid and place of a frame. Entries that the file does not have are None."""
    measures = macro(data, frame, "PixelMeasuresSequence")
    spacing = _numbers(measures, "PixelSpacing", 2) or _numbers(data, "ImagerPixelSpacing", 2)
    spacing = spacing or _numbers(data, "NominalScannedPixelSpacing", 2) or _of_ultrasound(data)
    ratio = _numbers(data, "PixelAspectRatio", 2)  # height to width, where no size is known
    size = pixel_size(spacing) or pixel_size(ratio, "unknown")
    thickness = _numbers(measures, "SliceThickness", 1)
    between = _numbers(measures, "SpacingBetweenSlices", 1)
    orientation = macro(data, frame, "PlaneOrientationSequence")
    directions = _numbers(orientation, "ImageOrientationPatient", 6)
    palette = data.PhotometricInterpretation == "PALETTE COLOR"
    return {
        "modality": str(data.get("Modality", "")),
        "photometric": str(data.PhotometricInterpretation),
        "bits_stored": 8 if palette else int(data.BitsStored),
        "frame": frame,
        "frames": frames,
        "spacing_mm": spacing,
        **size,
        "slice_thickness_mm": thickness[0] if thickness else None,
        "spacing_between_slices_mm": between[0] if between else None,
        "orientation": directions,
        "position_mm": _position(data, frame, frames, directions),
    }


def _of_ultrasound(data: Any) -> list[float] | None:
    """Return height and width of a pixel in mm, if all regions of an ultrasound image agree."""
    sizes = {
        tuple(abs(_number(region, f"PhysicalDelta{axis}")) * 10 for axis in "YX")
        for region in data.get("SequenceOfUltrasoundRegions") or ()
        if [region.get(f"PhysicalUnits{axis}Direction") for axis in "XY"] == [3, 3]  # cm
    }
    return list(sizes.pop()) if len(sizes) == 1 else None


def _number(item: Any, keyword: str) -> float:
    """Return a number, or 0 where there is none."""
    found = _numbers(item, keyword, 1)
    return found[0] if found else 0.0


def _numbers(item: Any, keyword: str, count: int) -> list[float] | None:
    """Return an entry with `count` finite numbers, or None."""
    value = item.get(keyword)
    values = list(value or ()) if count > 1 else [value]
    if any(entry is None or entry == "" for entry in values):
        return None
    entries = [float(entry) for entry in values]
    return entries if len(entries) == count and all(map(math.isfinite, entries)) else None


def _position(
    data: Any, frame: int, frames: int, directions: list[float] | None
) -> list[float] | None:
    """Return the position of the first pixel of a frame in mm."""
    if items(data, frame, "PlanePositionSequence"):
        plane = macro(data, frame, "PlanePositionSequence")
        return _numbers(plane, "ImagePositionPatient", 3)
    position = _numbers(data, "ImagePositionPatient", 3)
    offsets = _numbers(data, "GridFrameOffsetVector", frames) if frames > 1 else None
    if frames == 1 or position is None:
        return position
    if offsets is None or directions is None:
        return None  # the frames share one header, which has the place of the first
    if offsets[0] != 0:  # a dose grid can also list the z of its axial planes
        return [*position[:2], offsets[frame]]
    normal = np.cross(directions[:3], directions[3:])
    return [float(value) for value in position + normal * offsets[frame]]
