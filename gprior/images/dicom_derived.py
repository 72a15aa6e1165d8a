"""Encodes a DICOM image that is derived from a frame of a file.

The image has the study, the patient and the place of its source. Elements that would be wrong
beside new pixels are deleted. Text of the source is copied byte by byte, because its character set
may be another than the one that the file states.
"""

from __future__ import annotations

import copy
import io
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gprior.images.raster import ImageFile, ImageFileError, to_stored

__all__ = ["STAMP", "encode_dicom", "new_series"]

STAMP = "generative reconstruction, not for diagnosis"

# Elements that describe the pixels of the source, its signature, or its place among the files of
# a concatenation. Palettes, overlays and private elements are deleted as well.
_STALE = {
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "IconImageSequence",
    "DigitalSignaturesSequence",
    "MACParametersSequence",
    "PixelDataProviderURL",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "DataSetTrailingPadding",
    "SOPInstanceUIDOfConcatenationSource",
    "ConcatenationUID",
    "ConcatenationFrameOffsetNumber",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
}

# Elements that count, list or point to the frames of a source with several frames, beside all
# whose keyword ends in Vector.
_OF_FRAMES = {
    "FrameIncrementPointer",
    "FrameDimensionPointer",
    "RepresentativeFrameNumber",
    "FrameNumbersOfInterest",
    "FrameOfInterestDescription",
    "FrameOfInterestType",
    "StartTrim",
    "StopTrim",
    "FrameTime",
    "FrameDelay",
    "CineRate",
    "RecommendedDisplayFrameRate",
    "PreferredPlaybackSequencing",
    "RecommendedDisplayFrameRateInFloat",
    "FrameDisplaySequence",
    "MaskSubtractionSequence",
    "SimpleFrameList",
    "CalculatedFrameList",
    "PixelShiftFrameRange",
    "LUTFrameRange",
    "IVUSPullbackStartFrameNumber",
    "IVUSPullbackStopFrameNumber",
    "NumberOfFramesInPhase",
    "NumberOfFramesInRotation",
    "NumberOfEnergyWindows",
    "NumberOfDetectors",
    "NumberOfPhases",
    "NumberOfRotations",
    "NumberOfRRIntervals",
    "NumberOfTimeSlots",
    "NumberOfSlices",
    "NumberOfTimeSlices",
}

# Value representations whose bytes are the same in every transfer syntax.
_BYTES = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "OB", "PN", "SH", "ST", "TM"}
_BYTES |= {"UC", "UI", "UN", "UR", "UT"}


def new_series() -> str:
    """Return the UID of a new series."""
    from pydicom.uid import generate_uid

    return str(generate_uid())


def encode_dicom(
    image: ImageFile,
    pixels: NDArray[np.float64],
    note: str,
    series: str | None = None,
    number: int | None = None,
) -> bytes:
    """Encode a derived DICOM image with the study and place of its source.

    The instance is new; so is the series, unless its UID is given. Pixels that are NaN keep the
    value of the source, which is padding. InstanceNumber becomes `number`, if that is given.
    """
    import pydicom

    source, frame = image._source
    if source.BitsAllocated not in (8, 16, 32):
        raise ImageFileError(
            f"{image.path} stores {source.BitsAllocated} bits per pixel, but a derived DICOM image "
            "can have 8, 16 or 32; write the reconstruction as .npy instead"
        )
    data = copy.deepcopy(source)
    implicit = _is_implicit(data)
    _as_little_endian(data, implicit)
    _mark_derived(data, frame, note, series or new_series())
    _set_place(data, image)
    if number is not None:
        data.InstanceNumber = number
    syntax = "ImplicitVRLittleEndian" if implicit else "ExplicitVRLittleEndian"
    data.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    _set_pixels(data, image, pixels)
    buffer = io.BytesIO()
    # data.save_as would refuse a source that was big-endian.
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def _is_implicit(data: Any) -> bool:
    """Return whether the elements have no value representation; some files state it wrongly."""
    elements = (data.get_item(tag) for tag in list(data.keys()))
    read = (element.is_implicit_VR for element in elements if element.is_raw)
    return bool(next(read, data.original_encoding[0]))


def _as_little_endian(data: Any, implicit: bool) -> None:
    """Decode what depends on the order of bytes, and leave text as it is.

    pydicom writes elements that were never decoded as they are, if the encoding of the data set
    does not change.
    """
    for tag in list(data.keys()) if data.original_encoding[1] is False else ():
        if _representation(data, tag) not in _BYTES:
            element = data[tag]
            for item in element.value if element.VR == "SQ" else ():
                _as_little_endian(item, implicit)
    data.set_original_encoding(implicit, True, data.original_character_set)


def _representation(data: Any, tag: Any) -> str:
    """Return the value representation of an element without decoding it."""
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    known = data.get_item(tag).VR
    return str(known or (dictionary_VR(tag) if dictionary_has_tag(tag) else "UN"))


def _mark_derived(data: Any, frame: int, note: str, series: str) -> None:
    """Mark a copy of the source's header as a new instance that is derived from the source."""
    from pydicom import uid
    from pydicom.dataset import Dataset

    origin = Dataset()
    origin.ReferencedSOPClassUID = data.SOPClassUID
    origin.ReferencedSOPInstanceUID = data.SOPInstanceUID
    if "NumberOfFrames" in data:
        origin.ReferencedFrameNumber = frame + 1
    if data.get("PerFrameFunctionalGroupsSequence"):
        groups = data.PerFrameFunctionalGroupsSequence
        data.PerFrameFunctionalGroupsSequence = [groups[frame]]
    _scrub(data, several=int(data.get("NumberOfFrames") or 1) > 1)
    kind = data.get("ImageType") or []
    data.ImageType = ["DERIVED", "SECONDARY", *([] if isinstance(kind, str) else kind[2:])]
    data.SeriesInstanceUID = series
    data.SOPInstanceUID = uid.generate_uid()
    data.SeriesNumber = None
    data.SeriesDescription = STAMP
    data.DerivationDescription = note.encode("ascii", "replace").decode()[:1024]
    data.SourceImageSequence = [origin]
    now = datetime.now()
    data.InstanceCreationDate = data.ContentDate = now.strftime("%Y%m%d")
    data.InstanceCreationTime = data.ContentTime = now.strftime("%H%M%S")


def _scrub(data: Any, several: bool) -> None:
    """Delete private and stale elements at every depth, without decoding the others."""
    from pydicom.datadict import keyword_for_tag

    for tag in list(data.keys()):
        keyword = keyword_for_tag(tag)
        stale = keyword in _STALE or "PaletteColorLookupTable" in keyword
        if several:
            stale |= keyword in _OF_FRAMES or keyword.endswith("Vector")
        if tag.is_private or stale or 0x6000 <= tag.group <= 0x60FF:
            del data[tag]
        elif keyword == "FrameType":
            data.FrameType = ["DERIVED", "SECONDARY", *data.FrameType[2:]]
        elif _representation(data, tag) == "SQ":
            for item in data[tag].value:
                _scrub(item, several)


def _set_place(data: Any, image: ImageFile) -> None:
    """State the position of the frame where the header had that of the first frame."""
    if image.geometry["frames"] == 1 or "ImagePositionPatient" not in data:
        return
    if image.geometry["position_mm"] is None:
        del data.ImagePositionPatient
    else:
        data.ImagePositionPatient = [_decimal(value) for value in image.geometry["position_mm"]]


def _decimal(value: float) -> Any:
    """Return a number as DICOM writes it, in 16 characters at most."""
    from pydicom.valuerep import DSfloat

    return DSfloat(value, auto_format=True)


def _set_pixels(data: Any, image: ImageFile, pixels: NDArray[np.float64]) -> None:
    """Store physical values, and state how they are stored."""
    from pydicom.pixels import set_pixel_data

    slope, intercept = image.geometry["rescale_slope"], image.geometry["rescale_intercept"]
    outside = np.isnan(pixels)
    counts = (np.where(outside, image.pixels, pixels) - intercept) / slope
    color, limits = len(pixels) == 3, np.iinfo(image.stored_dtype)
    bits = min(image.geometry["bits_stored"], limits.bits)
    lo, hi = _range(bits, limits.min < 0)
    if outside.any() and not (lo <= counts[outside].min() and counts[outside].max() <= hi):
        bits = limits.bits  # padding can be a value that BitsStored has no place for
        counts = np.where(outside, counts, np.clip(counts, lo, hi))
        lo, hi = _range(bits, limits.min < 0)
    stored = to_stored(counts, image.stored_dtype, lo, hi)
    plain = np.ascontiguousarray(np.moveaxis(stored, 0, 2)) if color else stored[0]
    if "NumberOfFrames" in data:
        plain = plain[None]  # a multi-frame object stays one, but has only this frame
    wide = plain.dtype.itemsize == 4
    set_pixel_data(
        data,
        np.zeros(plain.shape, "u2") if wide else plain,  # pydicom does not know 32 bits
        "RGB" if color else image.geometry["photometric"],
        16 if wide else bits,
    )
    if wide:
        data.BitsAllocated, data.BitsStored, data.HighBit = 32, bits, bits - 1
        data.PixelRepresentation, data.PixelData = int(limits.min < 0), plain.tobytes()
    if "units" in image.geometry:
        data.RescaleSlope, data.RescaleIntercept = _decimal(slope), _decimal(intercept)
        data.Units = image.geometry["units"]
        if data.Units == "GML":
            data.SUVType = "BW"


def _range(bits: int, signed: bool) -> tuple[int, int]:
    """Return the smallest and the largest integer of some bits."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
