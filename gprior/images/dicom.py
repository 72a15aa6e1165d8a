"""Reads one frame of a DICOM file, and encodes a DICOM image that is derived from it.

The derived image has the place in the patient of the frame that was read. Elements that would be
wrong beside new pixels are deleted.
"""

from __future__ import annotations

import copy
import io
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gprior.images.raster import (
    CONVERT,
    ImageFile,
    ImageFileError,
    check_size,
    pick,
    pixel_size,
    reading,
    to_stored,
)

__all__ = ["STAMP", "encode_dicom", "read_dicom"]

STAMP = "generative reconstruction, not for diagnosis"


def read_dicom(path: Path, slice: int | None) -> ImageFile:
    """Read one frame of a DICOM file in physical units, with slope and intercept applied."""
    import pydicom
    from pydicom.pixels import apply_color_lut, pixel_array

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
        if "ModalityLUTSequence" in data:
            raise ImageFileError(
                f"{path} maps its values through a Modality LUT, which cannot be inverted when "
                "writing; convert it to .npy in physical units"
            )
        check_size(path, int(data.Rows), int(data.Columns))
        frames = int(data.get("NumberOfFrames") or 1)
        frame = pick(path, slice, frames)
        if "TransferSyntaxUID" not in data.file_meta:
            data.file_meta.TransferSyntaxUID = _syntax(data)
        stored = pixel_array(data, index=frame)
        if data.PhotometricInterpretation == "PALETTE COLOR":
            stored = apply_color_lut(stored, data)
            if stored.dtype.itemsize > 1:
                stored = (stored >> 8).astype(np.uint8)
        color = stored.ndim == 3
        slope, intercept = (1.0, 0.0) if color else _rescale(path, data, frame)
        padding = None if color else data.get("PixelPaddingValue")
        geometry = _dicom_geometry(data, frame, frames)
        geometry |= {"rescale_slope": slope, "rescale_intercept": intercept}
        del data["PixelData"]
    pixels = stored.astype(np.float64) * slope + intercept
    return ImageFile(
        pixels=np.moveaxis(pixels, 2, 0).copy() if color else pixels[None],
        format="dicom",
        path=path,
        stored_dtype=stored.dtype.name,
        value_range=(0.0, float(np.iinfo(stored.dtype).max)) if color else None,
        geometry=geometry,
        inverted=data.PhotometricInterpretation == "MONOCHROME1",
        padding=None if padding is None else float(padding) * slope + intercept,
        _source=(data, frame),
    )


def _syntax(data: Any) -> Any:
    """Return the transfer syntax with which a file without a file-meta group was parsed."""
    from pydicom import uid

    implicit, little = data.original_encoding
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _macro(data: Any, frame: int, sequence: str) -> Any:
    """Return the data set that has the attributes of a frame.

    It is the frame's own item of `sequence`, else the item that all frames share, else the file.
    """
    for groups, index in (("PerFrameFunctionalGroups", frame), ("SharedFunctionalGroups", 0)):
        items = data.get(f"{groups}Sequence")
        if items and sequence in items[index]:
            return items[index][sequence][0]
    return data


def _rescale(path: Path, data: Any, frame: int) -> tuple[float, float]:
    """Return slope and intercept, which map stored values to physical values."""
    values = _macro(data, frame, "PixelValueTransformationSequence")
    slope, intercept = values.get("RescaleSlope"), values.get("RescaleIntercept")
    slope = 1.0 if slope is None else float(slope)
    intercept = 0.0 if intercept is None else float(intercept)
    if slope == 0 or not math.isfinite(slope) or not math.isfinite(intercept):
        raise ImageFileError(
            f"{path} has RescaleSlope {slope} and RescaleIntercept {intercept}; the slope must "
            "be finite and not zero: correct the tags, or convert the file to .npy"
        )
    return slope, intercept


def _dicom_geometry(data: Any, frame: int, frames: int) -> dict[str, Any]:
    """Return grid and place of a frame. Entries that the file does not have are None."""

    def numbers(item: Any, keyword: str, count: int) -> list[float] | None:
        value = item.get(keyword)
        values = list(value or ()) if count > 1 else [value]
        if any(entry is None or entry == "" for entry in values):
            return None
        entries = [float(entry) for entry in values]
        return entries if len(entries) == count and all(map(math.isfinite, entries)) else None

    measures = _macro(data, frame, "PixelMeasuresSequence")
    plane = _macro(data, frame, "PlanePositionSequence")
    # The frames of older multi-frame objects share one header, which has the place of the first.
    placed = plane is not data or frames == 1
    spacing = numbers(measures, "PixelSpacing", 2) or numbers(data, "ImagerPixelSpacing", 2)
    spacing = spacing or numbers(data, "NominalScannedPixelSpacing", 2)
    ratio = numbers(data, "PixelAspectRatio", 2)  # height to width, where no size is known
    size = pixel_size(spacing) or pixel_size(ratio, "unknown")
    thickness = numbers(measures, "SliceThickness", 1)
    between = numbers(measures, "SpacingBetweenSlices", 1)
    orientation = _macro(data, frame, "PlaneOrientationSequence")
    return {
        "modality": str(data.get("Modality", "")),
        "photometric": str(data.PhotometricInterpretation),
        "bits_stored": int(data.BitsStored),
        "frame": frame,
        "frames": frames,
        "spacing_mm": spacing,
        **size,
        "slice_thickness_mm": thickness[0] if thickness else None,
        "spacing_between_slices_mm": between[0] if between else None,
        "orientation": numbers(orientation, "ImageOrientationPatient", 6),
        "position_mm": numbers(plane, "ImagePositionPatient", 3) if placed else None,
    }


# Elements that describe the pixels of the source, its other frames or its signature, and would be
# wrong beside new pixels. Palettes, overlays and private elements are deleted as well.
_STALE = {
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "IconImageSequence",
    "DigitalSignaturesSequence",
    "MACParametersSequence",
    "FrameTimeVector",
    "GridFrameOffsetVector",
    "PixelDataProviderURL",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "DataSetTrailingPadding",
}


def encode_dicom(image: ImageFile, pixels: NDArray[np.float64], note: str) -> bytes:
    """Encode a derived DICOM image with the study and place of its source.

    The series and the instance are new.
    """
    import pydicom
    from pydicom.pixels import set_pixel_data

    source, frame = image._source
    if source.BitsAllocated not in (8, 16):
        raise ImageFileError(
            f"{image.path} stores {source.BitsAllocated} bits per pixel, but a derived DICOM image "
            "can have 8 or 16; write the reconstruction as .npy instead"
        )
    data = copy.deepcopy(source)
    _mark_derived(data, frame, note)
    if image.geometry["position_mm"] is None and "ImagePositionPatient" in data:
        del data.ImagePositionPatient  # it is the position of another frame
    counts = (pixels - image.geometry["rescale_intercept"]) / image.geometry["rescale_slope"]
    color, limits = len(pixels) == 3, np.iinfo(image.stored_dtype)
    bits = limits.bits if color else min(image.geometry["bits_stored"], limits.bits)
    lo, hi = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if limits.min else (0, 2**bits - 1)
    stored = to_stored(counts, image.stored_dtype, lo, hi)
    plain = np.ascontiguousarray(np.moveaxis(stored, 0, 2)) if color else stored[0]
    if "NumberOfFrames" in data:
        plain = plain[None]  # a multi-frame object stays one, but has only this frame
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    set_pixel_data(data, plain, "RGB" if color else image.geometry["photometric"], bits)
    buffer = io.BytesIO()
    # data.save_as would refuse a source that was big-endian.
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def _mark_derived(data: Any, frame: int, note: str) -> None:
    """Mark a copy of the source's header as a new instance that is derived from the source."""
    from pydicom import uid
    from pydicom.datadict import keyword_for_tag
    from pydicom.dataset import Dataset

    origin = Dataset()
    origin.ReferencedSOPClassUID = data.SOPClassUID
    origin.ReferencedSOPInstanceUID = data.SOPInstanceUID
    if "NumberOfFrames" in data:
        origin.ReferencedFrameNumber = frame + 1
    if "PerFrameFunctionalGroupsSequence" in data:
        groups = data.PerFrameFunctionalGroupsSequence
        data.PerFrameFunctionalGroupsSequence = [groups[frame]]
    data.remove_private_tags()
    for tag in list(data.keys()):
        keyword, overlay = keyword_for_tag(tag), 0x6000 <= tag.group <= 0x60FF
        if overlay or keyword in _STALE or "PaletteColorLookupTable" in keyword:
            del data[tag]

    def derive_frame_type(item: Any, element: Any) -> None:
        if element.keyword == "FrameType":
            element.value = ["DERIVED", "SECONDARY", *element.value[2:]]

    data.walk(derive_frame_type)
    kind = data.get("ImageType") or []
    data.ImageType = ["DERIVED", "SECONDARY", *([] if isinstance(kind, str) else kind[2:])]
    data.SeriesInstanceUID = uid.generate_uid()
    data.SOPInstanceUID = uid.generate_uid()
    data.SeriesNumber = None
    data.SeriesDescription = STAMP
    data.DerivationDescription = note.encode("ascii", "replace").decode()[:1024]
    data.SourceImageSequence = [origin]
    now = datetime.now()
    data.InstanceCreationDate = data.ContentDate = now.strftime("%Y%m%d")
    data.InstanceCreationTime = data.ContentTime = now.strftime("%H%M%S")
