"""Images in and out of files: physical units, [0, 1], the prior's grid, and back.

    image = read_image("scan.dcm")                      # physical units, geometry
    unit, intensity = to_unit(image)                    # [LO, HI] -> [0, 1]
    x, record = fit(unit, (64, 64))                     # the prior's grid
    ...                                                 # reconstruct x
    write_like("out.dcm", unfit(x, record), image, intensity, "lbrgm")

The formats are in `gprior.images.raster` and `gprior.images.medical`; `fit` and `unfit` in
`gprior.images.resize`.
"""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gprior.checks import InputError
from gprior.files import restate, write_bytes
from gprior.images import medical, raster as imageformats
from gprior.images.medical import STAMP
from gprior.images.raster import CONVERT, EXTENSIONS, ImageFile, ImageFileError, guarded
from gprior.images.resize import fit, unfit

__all__ = [
    "STAMP",
    "ImageFile",
    "ImageFileError",
    "default_intensity",
    "fit",
    "from_unit",
    "read_image",
    "save_png",
    "to_unit",
    "unfit",
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

    The format is recognised by content, not by name. Sixteen bits stay sixteen bits. Alpha is
    dropped, not blended; palettes become gray or RGB; EXIF rotation is applied.

    Parameters
    ----------
    path : path-like
        PNG, TIFF, JPEG, NPY, DICOM or NIfTI (``.nii``, ``.nii.gz``).
    slice : int, optional
        Page of a TIFF, frame of a DICOM, slice of a NIfTI volume, from 0; default: the middle
        one. Of a 4-D NIfTI the first volume is read.
    axis : int, optional
        NIfTI only: the voxel axis that `slice` counts along, 0, 1 or 2 (default).

    Returns
    -------
    ImageFile
        ``pixels`` has shape (C, H, W), C 1 or 3, float64, all finite. A NIfTI slice is turned
        upright as ``geometry["display"]`` says; `write_like` turns it back.

    Raises
    ------
    ImageFileError
        A ValueError: the file is not an image, is damaged, too large, not supported or holds
        values that are not finite, or `slice` or `axis` does not exist.
    OSError
        When the file cannot be opened.
    """
    path = Path(path)
    kind = _recognise(path)
    if axis is not None and kind != "nifti":
        raise ImageFileError(f"axis={axis!r} is for NIfTI volumes, {path} is {kind}; leave it out")
    if kind == "nifti":
        image = medical.read_nifti(path, slice, axis)
    elif kind == "dicom":
        image = medical.read_dicom(path, slice)
    elif kind == "npy":
        image = imageformats.read_npy(path, slice)
    else:
        image = imageformats.read_raster(path, kind, slice)
    bad = int(np.count_nonzero(~np.isfinite(image.pixels)))
    if bad:
        raise ImageFileError(
            f"{path} has {bad} pixels that are NaN or infinite; replace them "
            "(numpy.nan_to_num) and save the image again"
        )
    return image


def _recognise(path: Path) -> str:
    """Return the format by the first bytes; by the name only for DICOM without a preamble."""
    try:
        with path.open("rb") as file:
            head = file.read(540)
    except OSError as error:
        raise restate(
            error, f"cannot open {path}: {error.strerror}; give the path of a readable image file"
        ) from error
    if head[128:132] == b"DICM":  # before TIFF: the preamble of a DICOM file may be a TIFF's
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
        f"{path} is {'not an image that gprior reads' if head else 'empty'}: by its first bytes "
        f"it is none of PNG, TIFF, JPEG, NPY, DICOM, NIfTI (single file); {CONVERT}"
    )


# --- Intensities -----------------------------------------------------------------------------


def default_intensity(image: ImageFile) -> tuple[float, float]:
    """Return the physical values (LO, HI) that become 0 and 1 when the user names none.

    Unsigned rasters use the range of the stored type, float NPY and TIFF within [0, 1] use
    (0, 1), and all others the 0.2 and 99.8 percentiles of the slice, so that a few hot pixels
    do not decide. Padding does not count, nor what a CT has below -1024 HU, where no matter is.
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
    ValueError
        When the image is constant, so that no range can be taken from it.
    """
    if image.value_range is not None:
        return image.value_range
    floor = -1024 if image.geometry.get("modality") == "CT" else -math.inf
    values = image.pixels[(image.pixels != image.padding) & (image.pixels >= floor)]
    values = values if values.size else image.pixels.ravel()
    plain_float = image.stored_dtype.startswith("float") and image.format in ("npy", "tiff")
    if plain_float and values.min() >= 0 and values.max() <= 1:
        return 0.0, 1.0
    lo, hi = (float(value) for value in np.percentile(values, (0.2, 99.8)))
    if lo == hi:
        lo, hi = float(values.min()), float(values.max())
    if lo == hi:
        raise InputError(
            f"intensity must be given for {image.path}: every pixel is {lo:g}, so no range can "
            "be estimated from the image; give two different numbers LO, HI"
        )
    return (hi, lo) if image.inverted else (lo, hi)


def to_unit(
    image: ImageFile, intensity: Sequence[float] | None = None
) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Map physical values linearly so that LO becomes 0 and HI becomes 1, without clipping.

    Parameters
    ----------
    image : ImageFile
        What `read_image` returned.
    intensity : (float, float), optional
        LO and HI in physical units; LO above HI inverts. Default: `default_intensity`.

    Returns
    -------
    array : ndarray, float64
        Shape (C, H, W). Values of the image outside [LO, HI] are outside [0, 1].
    intensity : tuple of float
        (LO, HI), for `from_unit`.

    Raises
    ------
    ValueError
        When LO and HI are not two different finite numbers, or the image is constant.
    """
    lo, hi = _check_intensity(default_intensity(image) if intensity is None else intensity)
    return (image.pixels - lo) / (hi - lo), (lo, hi)


def from_unit(array: ArrayLike, intensity: Sequence[float]) -> NDArray[np.float64]:
    """Map values back: 0 becomes LO and 1 becomes HI.

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
    ValueError
        When LO and HI are not two different finite numbers.

    Examples
    --------
    >>> from_unit([0.0, 0.5, 1.0], (-1000, 1000)).tolist()
    [-1000.0, 0.0, 1000.0]
    """
    lo, hi = _check_intensity(intensity)
    return lo + np.asarray(array, dtype=np.float64) * (hi - lo)


def _check_intensity(intensity: Sequence[float]) -> tuple[float, float]:
    pair = tuple(float(value) for value in intensity)
    if len(pair) != 2 or not all(map(math.isfinite, pair)) or pair[0] == pair[1]:
        raise InputError(
            f"intensity must be two different finite numbers LO, HI, got {pair}; "
            "for soft tissue in CT for example -160, 240"
        )
    return pair[0], pair[1]


# --- Writing ---------------------------------------------------------------------------------


def write_like(
    path: str | os.PathLike[str],
    unit_array: ArrayLike,
    image: ImageFile,
    intensity: Sequence[float],
    description: str,
) -> None:
    """Write a reconstruction in the format, units and geometry of the image it derives from.

    Integer formats stay in their stored type: values are rounded and, outside its range,
    clamped; JPEG is lossy. NPY is written as float, NIfTI as a float32 volume of one slice at
    its place in the world, DICOM as a derived image: same study, frame of reference, position
    and spacing, new series and instance, with the source's patient module. All but NPY carry
    the text of `STAMP` and `description`.

    Parameters
    ----------
    path : path-like
        Where to write, with an extension of the image's format.
    unit_array : array-like
        Shape (C, H, W) of ``image.pixels``: use `unfit` first where `fit` had been used.
    image : ImageFile
        What `read_image` returned.
    intensity : (float, float)
        What `to_unit` returned.
    description : str
        How the reconstruction was made, such as the solver and the operator.

    Raises
    ------
    ValueError
        When the array is not on the image's grid or not finite, when the extension is of another
        format, or when the source is of a kind that no image can be derived from
        (ImageFileError).
    OSError
        As `gprior.files.atomic_write`; nothing is left half-written.
    """
    name = Path(path).name.lower()
    if not name.endswith(EXTENSIONS[image.format]):
        raise InputError(
            f"path {os.fspath(path)!r} must end in {' or '.join(EXTENSIONS[image.format])}, "
            f"because {image.path} is {image.format}"
        )
    array = _finite(unit_array)
    if array.shape != image.pixels.shape:
        raise InputError(
            f"unit_array must have the shape {image.pixels.shape} of {image.path}, got "
            f"{array.shape}; bring it back onto that grid with unfit(array, record) first"
        )
    encode = {
        "npy": imageformats.encode_npy,
        "dicom": medical.encode_dicom,
        "nifti": medical.encode_nifti,
    }.get(image.format, imageformats.encode_raster)
    with guarded(
        f"no {image.format} image can be derived from {image.path}: its header is damaged or "
        "unusual",
        "write the reconstruction as .npy or .png instead",
    ):
        data = encode(image, from_unit(array, intensity), f"{STAMP}: {description}")
    if name.endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    write_bytes(path, data, "the reconstruction")


def save_png(path: str | os.PathLike[str], array: ArrayLike, bits: Literal[8, 16] = 8) -> None:
    """Save an image with values in [0, 1] as PNG; values outside are clamped.

    Parameters
    ----------
    path : path-like
        Where to write.
    array : array-like
        Shape (H, W), (1, H, W) or (3, H, W).
    bits : {8, 16}
        Bits per channel; 16 for gray only.

    Raises
    ------
    ValueError
        When the shape or `bits` is not one of these, or a value is not finite.
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
    stored = imageformats.to_stored(pixels * top, f"uint{bits}", 0, top)
    write_bytes(path, imageformats.encode_pixels(stored, "png"), "the picture")


def _finite(array: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(array, dtype=np.float64)
    if not np.isfinite(array).all():
        raise InputError("array has values that are NaN or infinite; an image must be finite")
    return array
