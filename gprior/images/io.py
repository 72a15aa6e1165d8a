"""Reads images into physical units, maps them to [0, 1] and back, and writes them.

These are the functions that users call. They detect the format and leave its details to
`gprior.images.raster`, `gprior.images.dicom` and `gprior.images.nifti`.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gprior.checks import InputError, number
from gprior.files import restate, write_bytes
from gprior.images import dicom, dicom_derived, nifti, raster
from gprior.images.dicom_derived import STAMP
from gprior.images.raster import (
    CONVERT,
    EXTENSIONS,
    EmptyImageError,
    ImageFile,
    ImageFileError,
    guarded,
)

__all__ = [
    "default_intensity",
    "deriving",
    "from_unit",
    "percentile_intensity",
    "physical_like",
    "read_image",
    "recognise",
    "save_png",
    "to_unit",
    "values_inside",
    "without_nan",
    "write_like",
]

_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
    b"\xff\xd8\xff": "jpeg",
    b"\x93NUMPY": "npy",
}


def read_image(
    path: str | os.PathLike[str], slice: int | None = None, axis: int | None = None
) -> ImageFile:
    """Read an image or one slice of a stack, in physical units.

    The format is detected from the contents of the file, not from its name. The precision of 16-bit
    images is kept. An alpha channel is dropped without blending; palettes become gray or RGB; the
    EXIF rotation is applied.

    Parameters
    ----------
    path : path-like
        PNG, TIFF, JPEG, NPY, DICOM or NIfTI (``.nii``, ``.nii.gz``).
    slice : int, optional
        Page of a TIFF, frame of a DICOM, or slice of a NIfTI volume, counted from 0. The default
        is the middle one. Of a 4-D NIfTI file the first volume is read.
    axis : int, optional
        The voxel axis along which `slice` counts, 0, 1 or 2; for NIfTI only. The default is the
        only axis of length 1, where the file has one such axis, or else 2.

    Returns
    -------
    ImageFile
        ``pixels`` is float64 of shape (C, H, W), with C 1 or 3, and finite: NaN is background, see
        `ImageFile`. A NIfTI slice is turned upright in the way that ``geometry["display"]``
        records; `write_like` turns it back.

    Raises
    ------
    ImageFileError
        If the file is not an image, is damaged, too large, not supported, or one pixel wide or
        high; if it holds values that are infinite, or nothing but NaN; or if `slice` or `axis`
        does not exist.
    OSError
        If the file cannot be opened.
    """
    path = Path(path)
    kind = recognise(path)
    if axis is not None and kind != "nifti":
        raise ImageFileError(f"axis={axis!r} is for NIfTI volumes, {path} is {kind}; omit axis")
    if kind == "nifti":
        image = nifti.read_nifti(path, slice, axis)
    elif kind == "dicom":
        image = dicom.read_dicom(path, slice)
    elif kind == "npy":
        image = raster.read_npy(path, slice)
    else:
        image = raster.read_raster(path, kind, slice)
    return without_nan(image)


def without_nan(image: ImageFile) -> ImageFile:
    """Make background of the values that are NaN. Resampling would spread NaN over the image."""
    nan = np.isnan(image.pixels)
    bad = int(np.count_nonzero(np.isinf(image.pixels)))
    if bad:
        raise ImageFileError(
            f"{image.path} has {bad} pixels that are infinite; replace them by numbers, or by NaN "
            "where they are background, and save the image again"
        )
    if nan.all():
        raise EmptyImageError(
            f"{image.path} has no pixel that is a number: all are NaN; choose another slice"
        )
    if not nan.any():
        return image
    lowest = float(image.pixels[~nan].min())
    return replace(image, pixels=np.where(nan, lowest, image.pixels), background=nan)


def recognise(path: Path) -> str:
    """Return the format by the first bytes; a DICOM file without a preamble needs its name.

    Raises
    ------
    ImageFileError
        If it is none of the formats that gprior reads.
    OSError
        If the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            head = file.read(540)
    except OSError as error:
        raise restate(
            error, f"cannot open {path}: {error.strerror}; give the path of a readable image file"
        ) from error
    # DICOM before TIFF, because the first bytes of a DICOM file may also be those of a TIFF.
    if head[128:132] == b"DICM":
        return "dicom"
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if head.startswith(b"\x1f\x8b"):
        problem = f"{path} is compressed with gzip but damaged or truncated"
        with guarded(problem), gzip.open(path) as stream:
            head = stream.read(540)
    if head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0":
        return "nifti"
    if head and path.suffix.lower() in EXTENSIONS["dicom"]:
        return "dicom"
    raise ImageFileError(
        f"{path} is {'not an image that gprior reads' if head else 'empty'}: its first bytes "
        f"show that it is none of PNG, TIFF, JPEG, NPY, DICOM, NIfTI (single file); "
        f"{_to_nifti(path, head) or CONVERT}"
    )


# File names of volumes in other formats, and what reads them.
_VOLUMES = {
    "nibabel": (".hdr", ".img", ".mgh", ".mgz", ".mnc", ".par", ".rec", ".head", ".brik"),
    "SimpleITK": (".nrrd", ".nhdr", ".mha", ".mhd"),
}


def _to_nifti(path: Path, head: bytes) -> str | None:
    """Return how to convert a volume of another format to one NIfTI file, with its geometry."""
    name = path.name.lower().removesuffix(".gz")
    pair = head[344:348] == b"ni1\0" or head[4:7] == b"ni2"
    if pair or name.endswith(_VOLUMES["nibabel"]):
        line = f"import nibabel; nibabel.save(nibabel.load({path.name!r}), 'volume.nii.gz')"
    elif name.endswith(_VOLUMES["SimpleITK"]):
        line = (
            "import SimpleITK; SimpleITK.WriteImage("
            f"SimpleITK.ReadImage({path.name!r}), 'volume.nii.gz')"
        )
    else:
        return None
    return f"convert it to one NIfTI file, which keeps its geometry: {line}"


# --- Intensities -----------------------------------------------------------------------------


def default_intensity(image: ImageFile) -> tuple[float, float]:
    """Return the physical values (LO, HI) that become 0 and 1 if the user gives none.

    - For images of 8- or 16-bit unsigned integers without units (PNG, JPEG, TIFF, NPY, and DICOM
      in colour): the range of the stored type.
    - For NPY and TIFF of floats within [0, 1]: (0, 1).
    - For all others: the 0.2 and 99.8 percentiles of the slice, so that a few very bright pixels
      have no influence. Background is left out (see `ImageFile`).

    LO and HI are exchanged where large values are dark (MONOCHROME1).

    Parameters
    ----------
    image : ImageFile
        What `read_image` returned.

    Returns
    -------
    tuple of float
        (LO, HI), different from each other.

    Raises
    ------
    InputError
        If the image is constant, so that no range can be taken from it.
    """
    if image.value_range is not None:
        return image.value_range
    values = values_inside(image)
    plain_float = image.stored_dtype.startswith("float") and image.format in ("npy", "tiff")
    if plain_float and values.min() >= 0 and values.max() <= 1:
        return 0.0, 1.0
    return percentile_intensity(image)


def percentile_intensity(image: ImageFile) -> tuple[float, float]:
    """Return the 0.2 and 99.8 percentiles of an image, in physical units.

    Background is left out. Where the percentiles are equal, the smallest and the largest value are
    returned. LO and HI are exchanged where large values are dark (MONOCHROME1).

    Parameters
    ----------
    image : ImageFile
        What `read_image` returned.

    Returns
    -------
    tuple of float
        (LO, HI), different from each other.

    Raises
    ------
    InputError
        If the image is constant, so that no range can be taken from it.
    """
    values = values_inside(image)
    lo, hi = (float(value) for value in np.percentile(values, (0.2, 99.8)))
    if lo == hi:
        lo, hi = float(values.min()), float(values.max())
    if lo == hi:
        raise InputError(
            f"intensity must be given for {image.path}: the image is constant (every pixel is "
            f"{lo:g}), so no range can be taken from it; give two different numbers LO, HI"
        )
    return (hi, lo) if image.inverted else (lo, hi)


def values_inside(image: ImageFile) -> NDArray[np.float64]:
    """Return the values of the pixels that belong to the scan."""
    outside = image.background
    if outside is None or outside.all():
        return image.pixels.ravel()
    return image.pixels[~outside]


def to_unit(
    image: ImageFile, intensity: Sequence[float] | Literal["percentile"] | None = None
) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Map physical values linearly so that LO becomes 0 and HI becomes 1, without clipping.

    Parameters
    ----------
    image : ImageFile
        What `read_image` returned.
    intensity : (float, float) or "percentile", optional
        LO and HI in physical units; if LO is above HI, the image is inverted. ``"percentile"`` is
        that of `percentile_intensity`, whatever the type of the file. The default is that of
        `default_intensity`.

    Returns
    -------
    array : ndarray, float64
        Shape (C, H, W). Values of the image outside [LO, HI] are outside [0, 1]. Background is 0.
    intensity : tuple of float
        (LO, HI), for `from_unit`.

    Raises
    ------
    InputError
        If LO and HI are not two different finite numbers, or the image is constant.
    """
    if intensity is None:
        intensity = default_intensity(image)
    elif isinstance(intensity, str) and intensity == "percentile":
        intensity = percentile_intensity(image)
    lo, hi = _check_intensity(intensity)
    unit = (image.pixels - lo) / (hi - lo)
    if image.background is not None:
        unit[image.background] = 0
    return unit, (lo, hi)


def from_unit(array: ArrayLike, intensity: Sequence[float]) -> NDArray[np.float64]:
    """Map values in [0, 1] linearly to physical units: 0 becomes LO and 1 becomes HI.

    Parameters
    ----------
    array : array-like
        Any shape.
    intensity : (float, float)
        LO and HI, as `to_unit` returned them.

    Returns
    -------
    ndarray, float64
        Physical values.

    Raises
    ------
    InputError
        If LO and HI are not two different finite numbers.

    Examples
    --------
    >>> from_unit([0.0, 0.5, 1.0], (-1000, 1000)).tolist()
    [-1000.0, 0.0, 1000.0]
    """
    lo, hi = _check_intensity(intensity)
    return lo + np.asarray(array, dtype=np.float64) * (hi - lo)


def _check_intensity(intensity: Sequence[float]) -> tuple[float, float]:
    """Return LO and HI as floats."""
    with suppress(TypeError, ValueError):  # there are not two values, or not numbers
        lo, hi = (number("intensity", value) for value in intensity)
        if lo != hi:
            return lo, hi
    raise InputError(
        f"intensity must be two different finite numbers LO, HI, got {intensity!r}; "
        "for soft tissue in CT for example -160, 240"
    )


# --- Writing ---------------------------------------------------------------------------------


def write_like(
    path: str | os.PathLike[str],
    unit_array: ArrayLike,
    image: ImageFile,
    intensity: Sequence[float],
    description: str,
) -> None:
    """Write a reconstruction in the format, units and geometry of the image that it derives from.

    - Integer formats keep their stored type: values are rounded, and clamped to its range. JPEG
      is lossy.
    - NPY is written as float.
    - Background stays what it is in the file, such as NaN or padding.
    - NIfTI is written as a float32 volume of one slice, at the slice's place in the world.
    - DICOM is written as a derived image. It keeps the study, frame of reference, position,
      spacing and patient of the source, and belongs to a new series and instance.

    All formats except NPY contain the text of `STAMP` and `description`.

    Parameters
    ----------
    path : path-like
        The file to write, with an extension of the image's format.
    unit_array : array-like
        Shape (C, H, W) of ``image.pixels``. After `fit`, use `unfit` first.
    image : ImageFile
        What `read_image` returned.
    intensity : (float, float)
        What `to_unit` returned.
    description : str
        How the reconstruction was made, such as the solver and the operator.

    Raises
    ------
    InputError
        If the array has another shape than the image or is not finite, or if the extension belongs
        to another format.
    ImageFileError
        If no image can be derived from the source.
    OSError
        As `gprior.files.atomic_write`; the file is written completely or not at all.
    """
    name = Path(path).name.lower()
    if not name.endswith(EXTENSIONS[image.format]):
        raise InputError(
            f"path {os.fspath(path)!r} must end in {' or '.join(EXTENSIONS[image.format])}, "
            f"because {image.path} is {image.format}"
        )
    pixels = physical_like(unit_array, image, intensity)
    encode = {
        "npy": raster.encode_npy,
        "dicom": dicom_derived.encode_dicom,
        "nifti": nifti.encode_nifti,
    }.get(image.format, raster.encode_raster)
    with deriving(image):
        data = encode(image, pixels, f"{STAMP}: {description}")
    if name.endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    write_bytes(path, data, "the reconstruction")


def deriving(image: ImageFile) -> AbstractContextManager[None]:
    """Return `guarded` with a message for an image that cannot be derived from."""
    return guarded(
        f"no {image.format} image can be derived from {image.path}: its header is damaged or "
        "unusual",
        "write the reconstruction as .npy or .png instead",
    )


def physical_like(
    unit_array: ArrayLike, image: ImageFile, intensity: Sequence[float]
) -> NDArray[np.float64]:
    """Return physical values of the shape of an image; they are NaN in its background."""
    array = _finite(unit_array)
    if array.shape != image.pixels.shape:
        raise InputError(
            f"unit_array must have the shape {image.pixels.shape} of {image.path}, got "
            f"{array.shape}; bring it back to that shape with unfit(array, record) first"
        )
    pixels = from_unit(array, intensity)
    return pixels if image.background is None else np.where(image.background, np.nan, pixels)


def save_png(path: str | os.PathLike[str], array: ArrayLike, bits: Literal[8, 16] = 8) -> None:
    """Save an image with values in [0, 1] as PNG. Values outside are clamped.

    Parameters
    ----------
    path : path-like
        The file to write.
    array : array-like
        Shape (H, W), (1, H, W) or (3, H, W).
    bits : {8, 16}
        Bits per channel; 16 for gray images only.

    Raises
    ------
    InputError
        If the shape or `bits` is none of these, or a value is not finite.
    OSError
        As `gprior.files.atomic_write`.
    """
    pixels = _finite(array)
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or len(pixels) not in (1, 3) or pixels.size == 0:
        raise InputError(f"array must be (H, W), (1, H, W) or (3, H, W), got {pixels.shape}")
    if bits not in (8, 16) or (bits == 16 and len(pixels) == 3):
        raise InputError(f"bits must be 8, or 16 for gray images, got {bits!r}")
    top = 2**bits - 1
    stored = raster.to_stored(pixels * top, f"uint{bits}", 0, top)
    write_bytes(path, raster.encode_pixels(stored, "png"), "the picture")


def _finite(array: ArrayLike) -> NDArray[np.float64]:
    """Return an array as float64 after checking that it is finite."""
    array = np.asarray(array, dtype=np.float64)
    if not np.isfinite(array).all():
        raise InputError("array has values that are NaN or infinite; use numpy.nan_to_num first")
    return array
