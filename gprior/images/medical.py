"""DICOM and NIfTI: one slice in, one derived slice out, at its true place in the patient.

As the plain formats in `gprior.images.raster`: a reader that makes an `ImageFile`, and an encoder
that makes the bytes of a derived file from new pixels on the same grid.
"""

from __future__ import annotations

import builtins
import copy
import gzip
import io
import math
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from gprior.images.raster import (
    CONVERT,
    MAX_PIXELS,
    ImageFile,
    ImageFileError,
    check_size,
    pick,
    reading,
    to_stored,
)

STAMP = "generative reconstruction, not for diagnosis"

# --- DICOM -----------------------------------------------------------------------------------


def read_dicom(path: Path, slice: int | None) -> ImageFile:
    """Read one frame of a DICOM file in physical units (slope and intercept applied)."""
    import pydicom
    from pydicom.pixels import apply_color_lut, pixel_array

    remedy = f"if its pixels are compressed, `pip install pylibjpeg[all]` first; else {CONVERT}"
    with reading(path, "DICOM", remedy):
        data = pydicom.dcmread(path, force=True)
        if "PixelData" not in data:
            raise ImageFileError(
                f"{path} is a DICOM file without integer pixel data (a plan, a report, an index "
                "or a float map); give the file of an image"
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
    """Return the transfer syntax of a file without file-meta group, from how it was parsed."""
    from pydicom import uid

    implicit, little = data.original_encoding
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _macro(data: Any, frame: int, sequence: str) -> Any:
    """Return the item with a frame's attributes: of the frame, shared by all, or the file's."""
    for groups, index in (("PerFrameFunctionalGroups", frame), ("SharedFunctionalGroups", 0)):
        items = data.get(f"{groups}Sequence")
        if items and sequence in items[index]:
            return items[index][sequence][0]
    return data


def _rescale(path: Path, data: Any, frame: int) -> tuple[float, float]:
    """Return slope and intercept from stored to physical values."""
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
    """Collect grid and place of a frame; entries that the file lacks are None."""

    def numbers(item: Any, keyword: str, count: int) -> list[float] | None:
        value = item.get(keyword)
        if value is None or value == "":
            return None
        entries = [float(entry) for entry in (value if count > 1 else [value])]
        return entries if len(entries) == count and all(map(math.isfinite, entries)) else None

    measures = _macro(data, frame, "PixelMeasuresSequence")
    plane = _macro(data, frame, "PlanePositionSequence")
    # Frames of the older multi-frame objects share one header: it places none but the first.
    placed = plane is not data or frames == 1
    spacing = numbers(measures, "PixelSpacing", 2) or numbers(data, "ImagerPixelSpacing", 2)
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
        "slice_thickness_mm": thickness[0] if thickness else None,
        "spacing_between_slices_mm": between[0] if between else None,
        "orientation": numbers(orientation, "ImageOrientationPatient", 6),
        "position_mm": numbers(plane, "ImagePositionPatient", 3) if placed else None,
    }


# What describes the source's pixels, its other frames or its signature, and would be untrue
# beside new pixels; palettes, overlays and private elements go too.
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
    """Encode a derived DICOM image: same study and place, new series and instance."""
    import pydicom
    from pydicom.pixels import set_pixel_data

    source, frame = image._source
    if source.BitsAllocated not in (8, 16):
        raise ImageFileError(
            f"{image.path} stores {source.BitsAllocated} bits per pixel, a derived DICOM image "
            "8 or 16; write the reconstruction as .npy instead"
        )
    data = copy.deepcopy(source)
    _mark_derived(data, frame, note)
    if image.geometry["position_mm"] is None and "ImagePositionPatient" in data:
        del data.ImagePositionPatient  # that of another frame
    counts = (pixels - image.geometry["rescale_intercept"]) / image.geometry["rescale_slope"]
    color, limits = len(pixels) == 3, np.iinfo(image.stored_dtype)
    bits = limits.bits if color else min(image.geometry["bits_stored"], limits.bits)
    lo, hi = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if limits.min else (0, 2**bits - 1)
    stored = to_stored(counts, image.stored_dtype, lo, hi)
    plain = np.ascontiguousarray(np.moveaxis(stored, 0, 2)) if color else stored[0]
    if "NumberOfFrames" in data:
        plain = plain[None]  # a multi-frame object stays one, with this frame alone
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    set_pixel_data(data, plain, "RGB" if color else image.geometry["photometric"], bits)
    buffer = io.BytesIO()
    # Not data.save_as, which refuses a source that was big-endian.
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def _mark_derived(data: Any, frame: int, note: str) -> None:
    """Give a copy of the source's header its own identity and say what it is and comes from."""
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


# --- NIfTI -----------------------------------------------------------------------------------


def read_nifti(path: Path, slice: int | None, axis: int | None) -> ImageFile:
    """Read one slice of the (first) volume of a NIfTI file, upright as radiologists look at it.

    The slice is transposed and flipped so that rows run from anterior to posterior, or from
    superior to inferior, and columns from the patient's right to left, or from anterior to
    posterior: the convention of DICOM. ``geometry["display"]`` records it.
    """
    import nibabel

    axis = 2 if axis is None else axis
    if isinstance(axis, bool) or axis not in (0, 1, 2):
        raise ImageFileError(f"axis {axis!r} of {path} does not exist; give 0, 1 or 2")
    with reading(path, "NIfTI"), _nifti_stream(path) as stream:
        version = nibabel.Nifti2Image if stream.read(8)[4:7] == b"n+2" else nibabel.Nifti1Image
        stream.seek(0)
        file = version.from_stream(stream)
        header, affine = file.header, file.affine
        dtype, ndim = header.get_data_dtype(), len(file.shape)
        if dtype.kind not in "iuf":
            raise ImageFileError(
                f"{path} holds complex or colour values ({dtype.name}); an image has one real "
                "number per voxel: save its magnitude"
            )
        shape = (*file.shape, 1, 1)[:3]
        index = pick(path, slice, shape[axis])
        check_size(path, *(n for a, n in enumerate(shape) if a != axis))
        if math.prod(shape) > 16 * MAX_PIXELS or not np.abs(affine).max() < 1e9:
            raise ImageFileError(
                f"{path} has {shape} voxels (at most {16 * MAX_PIXELS} are read) or an affine "
                "with values that are not finite or above 1e9; crop it or correct its header"
            )
        spatial = [index if a == axis else builtins.slice(None) for a in range(min(ndim, 3))]
        where = (*spatial, *(0,) * (ndim - 3))
        plane = np.asarray(file.dataobj[where], dtype=np.float64)
        plane = plane.reshape([n for a, n in enumerate(shape) if a != axis])
        geometry = _nifti_geometry(header, affine, axis, index, shape)
    return ImageFile(
        pixels=_upright(plane, geometry["display"])[None].copy(),
        format="nifti",
        path=path,
        stored_dtype=dtype.name,
        geometry=geometry,
        _source=(version, header.copy(), affine),
    )


def _nifti_stream(path: Path) -> BinaryIO:
    """Open the uncompressed bytes, whatever the file is called."""
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return cast("BinaryIO", gzip.open(path, "rb") if compressed else path.open("rb"))


def _nifti_geometry(
    header: Any, affine: NDArray[np.float64], axis: int, index: int, shape: tuple[int, ...]
) -> dict[str, Any]:
    from nibabel.orientations import aff2axcodes, io_orientation

    rows, columns = (a for a in range(3) if a != axis)
    zooms = [float(value) for value in np.linalg.norm(affine[:3, :3], axis=0)]
    orientation = io_orientation(affine)
    transpose = False
    flips = [False, False]
    if np.isfinite(orientation).all():
        # World axes are right, anterior, superior: rows follow the later of the two, and both
        # rows and columns run against their axis.
        transpose = bool(orientation[rows, 0] < orientation[columns, 0])
        if transpose:
            rows, columns = columns, rows
        flips = [bool(orientation[a, 1] > 0) for a in (rows, columns)]
    return {
        "axis": axis,
        "slice": index,
        "shape": [int(n) for n in shape],
        "affine": affine.tolist(),
        "axis_codes": ["?" if code is None else code for code in aff2axcodes(affine)],
        "zooms": zooms,
        "units": header.get_xyzt_units()[0],
        "display": {"transpose": transpose, "flip_rows": flips[0], "flip_columns": flips[1]},
        "spacing": [zooms[rows], zooms[columns]],
    }


def _upright(plane: NDArray[np.float64], display: dict[str, bool]) -> NDArray[np.float64]:
    plane = plane.T if display["transpose"] else plane
    return plane[
        :: -1 if display["flip_rows"] else 1,
        :: -1 if display["flip_columns"] else 1,
    ]


def encode_nifti(image: ImageFile, pixels: NDArray[np.float64], note: str) -> bytes:
    """Encode a volume of this one slice, float32, at the slice's place in the world."""
    version, header, affine = image._source
    axis, index, display = (image.geometry[key] for key in ("axis", "slice", "display"))
    # Flips are their own inverses, and come before the transpose on the way back.
    flat = _upright(pixels[0], display | {"transpose": False})
    stored = np.expand_dims(flat.T if display["transpose"] else flat, axis)
    header = header.copy()
    header.set_data_dtype(np.float32)
    header.extensions.clear()  # they may describe the other slices and volumes
    header["descrip"] = note.encode("ascii", "replace")[:79]
    for key in ("slice_start", "slice_end", "slice_code", "slice_duration"):
        header[key] = 0

    def moved(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        matrix = matrix.copy()
        matrix[:3, 3] += matrix[:3, axis] * index
        return matrix

    file = version(stored.astype(np.float32), moved(affine), header)
    # A changed affine makes nibabel rewrite both codes; the slice is in the same space as before.
    for name in ("qform", "sform"):
        matrix, code = getattr(header, f"get_{name}")(coded=True)
        if code:
            getattr(file, f"set_{name}")(moved(matrix), int(code))
        elif int(header["sform_code"]) or int(header["qform_code"]):
            getattr(file, f"set_{name}")(None, 0)
    return cast(bytes, file.to_bytes())
