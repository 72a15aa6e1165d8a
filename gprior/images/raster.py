"""Defines `ImageFile`, and reads and encodes the plain formats: PNG, TIFF, JPEG and NPY.

A format has two functions: ``read(path, slice) -> ImageFile`` and
``encode(image, pixels, note) -> bytes``. `gprior.images.io` selects them and does all that the
formats have in common. `gprior.images.dicom` and `gprior.images.nifti` have the same two functions.
"""

from __future__ import annotations

import errno
import io
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gprior.checks import InputError, integer
from gprior.files import restate
from gprior.images.calibration import size_of_dots, tiff_calibration

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 2**26
"""Largest number of pixels (height times width) that is read: 8192 by 8192.

A header of a few bytes can promise any size, so the size is checked before pixels are decoded.
"""

EXTENSIONS = {
    "png": (".png",),
    "tiff": (".tif", ".tiff"),
    "jpeg": (".jpg", ".jpeg"),
    "npy": (".npy",),
    "dicom": (".dcm", ".dicom", ".ima"),
    "nifti": (".nii.gz", ".nii"),
}

CONVERT = "obtain the file again, or convert it to .npy with shape (H, W) or (3, H, W)"


class ImageFileError(InputError):
    """A file that cannot be read, or from which no image can be derived.

    The message names the file, the rule and the remedy.
    """


class EmptyImageError(ImageFileError):
    """An image in which every pixel is background."""


@dataclass(frozen=True, eq=False)
class ImageFile:
    """An image in physical units, with all that is needed to write a derived file.

    The public attributes and the repr never contain patient data. The header of a DICOM or NIfTI
    file is kept in a private attribute, which only `gprior.images.write_like` uses.

    Attributes
    ----------
    pixels : ndarray, float64
        Shape (C, H, W), with C 1 or 3, in physical units: Hounsfield units for CT, scaled values
        for NIfTI, stored values for PNG, TIFF, JPEG and NPY.
    format : str
        ``"png"``, ``"tiff"``, ``"jpeg"``, ``"npy"``, ``"dicom"`` or ``"nifti"``.
    path : pathlib.Path
        The file that was read.
    stored_dtype : str
        NumPy name of the stored type, such as ``"uint16"``.
    value_range : tuple of float or None
        Range of the stored type, such as (0, 65535), where the file is a raster image of unsigned
        integers.
    geometry : dict
        Spacing, orientation, position and slice, as far as the format has them; ready for JSON.
        ``geometry["spacing"]`` is `spacing`, and ``geometry["spacing_unit"]`` is ``"mm"``, or
        ``"unknown"`` where only the ratio of the two numbers has a meaning.
    inverted : bool
        Whether large values are dark (DICOM MONOCHROME1).
    background : ndarray of bool or None
        Shape (C, H, W): the pixels outside of the scan. They are those that are NaN in the file,
        where `pixels` has the smallest number of the image; the padding of DICOM, a value or a
        range; and the values of a CT below -1024 HU. `gprior.images.to_unit` gives 0 there, and
        `gprior.images.write_like` writes what the file has there.
    """

    pixels: NDArray[np.float64]
    format: str
    path: Path
    stored_dtype: str
    value_range: tuple[float, float] | None = None
    geometry: dict[str, Any] = field(default_factory=dict)
    inverted: bool = False
    background: NDArray[np.bool_] | None = None
    _source: Any = None  # what the format's encoder needs

    @property
    def spacing(self) -> tuple[float, float] | None:
        """Height and width of a pixel; None where the file does not state them."""
        spacing = self.geometry.get("spacing")
        return None if spacing is None else (spacing[0], spacing[1])

    @property
    def slices(self) -> int:
        """Number of slices, frames or pages of the file."""
        geometry = self.geometry
        if self.format == "nifti":
            return int(geometry["shape"][geometry["axis"]])
        return int(geometry.get("frames") or geometry.get("pages") or 1)

    def __repr__(self) -> str:
        shape = "x".join(str(n) for n in self.pixels.shape)
        return f"ImageFile({self.path.name!r}, {self.format}, {shape}, {self.stored_dtype})"


@contextmanager
def guarded(problem: str, remedy: str = CONVERT) -> Iterator[None]:
    """Turn every error that a library may raise on a damaged file into one for the user.

    The messages and warnings of the library are dropped, because pydicom quotes values from the
    file, and those can be data of a patient.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImageFileError:
        raise
    except Exception as error:
        # EINVAL means that a damaged header sent the library to before the start of the file.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise restate(error, f"{problem}: {error.strerror}; {remedy}") from None
        raise ImageFileError(f"{problem} ({type(error).__name__}); {remedy}") from None


def reading(path: Path, kind: str, remedy: str = CONVERT) -> AbstractContextManager[None]:
    """Return `guarded` with a message for a file that was recognised as `kind`."""
    return guarded(
        f"{path} was recognised as {kind} but cannot be read: it is damaged, truncated or of an "
        "unsupported variant",
        remedy,
    )


def check_size(path: Path, height: int, width: int) -> None:
    """Refuse an image that is one pixel wide or high, or has more than `MAX_PIXELS`."""
    if height * width > MAX_PIXELS:
        raise ImageFileError(
            f"{path} has {height} x {width} pixels, the limit is {MAX_PIXELS}; "
            "crop or resize it first"
        )
    if height < 2 or width < 2:
        raise ImageFileError(
            f"{path} has {height} x {width} pixels, but an image is at least 2 pixels high and "
            "wide; of a volume, choose another axis (0, 1 or 2)"
        )


def pick(path: Path, slice: int | None, count: int) -> int:
    """Return a checked slice index, or the middle one of `count` slices if none is given."""
    try:
        return count // 2 if slice is None else integer("slice", slice, 0, count - 1)
    except InputError as error:
        raise ImageFileError(f"{error}; {path} has no slice {slice!r}") from None


def to_stored(pixels: NDArray[np.float64], dtype: str, lo: float, hi: float) -> NDArray[Any]:
    """Round to the nearest stored integer within [lo, hi]."""
    return np.clip(np.rint(pixels), lo, hi).astype(dtype)


# --- PNG, TIFF, JPEG -------------------------------------------------------------------------


def read_raster(path: Path, kind: str, slice: int | None) -> ImageFile:
    """Read PNG, TIFF or JPEG.

    The precision of 16 bits is kept, palettes become gray or RGB, alpha is dropped, and the EXIF
    rotation is applied.
    """
    from PIL import Image, ImageOps

    # Pillow does not recognise a big-endian BigTIFF. Given a path, it maps the file, and then
    # mixes up the rows of a TIFF that is to be turned.
    remedy = f"convert it with `tiffcp -L {path.name} new.tif`" if _is_big(path) else CONVERT
    with (
        path.open("rb") as file,
        reading(path, kind.upper(), remedy),
        Image.open(file, formats=(kind.upper(),)) as picture,
    ):
        pages = getattr(picture, "n_frames", 1) if kind == "tiff" else 1
        page = pick(path, slice, pages)
        first = _tags(picture)
        picture.seek(page)
        check_size(path, picture.height, picture.width)
        dtype = _raster_dtype(path, kind, picture)
        tags = _tags(picture)
        white_is_zero = tags.get(262) == 0
        # A colour profile describes the stored channels, so it is kept only where they are not
        # converted.
        profiled = ["icc_profile"] if picture.mode in ("L", "RGB") else []
        options = {key: picture.info[key] for key in profiled if picture.info.get(key)}
        turned = picture.getexif().get(274, 1) > 4  # before Pillow turns a TIFF upright itself
        dpi = () if kind == "tiff" else picture.info.get("dpi", ())
        aspect = picture.info.get("aspect")  # of PNG and JPEG, where only the ratio is known
        if picture.info.get("jfif_unit") == 0:
            aspect = picture.info["jfif_density"]
        upright = ImageOps.exif_transpose(picture)
        plain = upright if dtype != "uint8" else _plain_mode(upright)
        pixels = np.asarray(plain).astype(np.float64)
    if dtype == "uint16" and white_is_zero:
        pixels = 65535 - pixels  # Pillow does this for 8 bits, but not for 16.
    top = {"uint8": 255.0, "uint16": 65535.0}.get(dtype)
    geometry: dict[str, Any] = {"pages": pages, "page": page} if pages > 1 else {}
    dpi = [float(value) for value in (reversed(dpi) if turned else dpi)]
    if len(dpi) == 2 and all(math.isfinite(value) for value in dpi):
        options["dpi"], geometry["dpi"] = tuple(dpi), dpi
        geometry |= size_of_dots(dpi[1], dpi[0], 25.4)
    elif aspect and aspect[0] != aspect[1]:
        columns, rows = reversed(aspect) if turned else aspect
        geometry |= size_of_dots(float(rows), float(columns), None)
    if kind == "tiff":
        options["tiffinfo"], size = tiff_calibration(tags, first, turned, pages)
        geometry |= size
    return ImageFile(
        pixels=pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0).copy(),
        format=kind,
        path=path,
        stored_dtype=dtype,
        value_range=None if top is None else (0.0, top),
        geometry=geometry,
        _source=options,
    )


def _tags(picture: Any) -> dict[int, Any]:
    """Return the tags of the page of a TIFF; none of other formats."""
    return dict(getattr(picture, "tag_v2", {}))


def _is_big(path: Path) -> bool:
    """Return whether a file is a big-endian BigTIFF."""
    with path.open("rb") as file:
        return file.read(4) == b"MM\0+"


def _raster_dtype(path: Path, kind: str, picture: Image.Image) -> str:
    """Return the stored type; refuse images whose values Pillow would change silently."""
    bits, signed = 8, False
    if kind == "png":
        with path.open("rb") as file:
            bits = file.read(25)[24]  # the bit depth is the ninth byte of the IHDR chunk
    elif kind == "tiff":
        tags = picture.tag_v2  # type: ignore[attr-defined]
        bits, signed = max(tags.get(258, (1,))), tags.get(339, (1,))[0] == 2
    one_channel = picture.mode.startswith("I") or picture.mode == "F"
    if bits > 8 and not one_channel:
        raise ImageFileError(
            f"{path} is a {kind.upper()} with {bits} bits in each of several channels, which "
            "cannot be read without losing precision; save it as .npy with shape (3, H, W), or "
            "as 8-bit, or as 16-bit grayscale"
        )
    if (bits == 32 and picture.mode == "I" and not signed) or (bits == 8 and signed):
        raise ImageFileError(
            f"{path} is a TIFF of {'signed 8' if signed else 'unsigned 32'}-bit integers, which "
            "is not supported; save it as .npy or as 16-bit TIFF"
        )
    if picture.mode == "F":
        return "float32"
    return f"{'int' if signed else 'uint'}{16 if 8 < bits <= 16 else 32 if bits > 16 else 8}"


def _plain_mode(picture: Image.Image) -> Image.Image:
    """Return the image in mode L or RGB.

    Alpha is dropped without blending, and a palette of grays becomes gray.
    """
    from PIL import ImageChops

    if picture.mode in ("La", "RGBa"):  # colours multiplied by alpha
        picture = picture.convert(picture.mode.upper())
    if picture.mode in ("1", "L", "LA"):
        return picture.convert("L")
    color = picture.convert("RGB")
    red, green, blue = color.split()
    gray = all(ImageChops.difference(red, other).getbbox() is None for other in (green, blue))
    return red if picture.mode in ("P", "PA") and gray else color


def encode_raster(image: ImageFile, pixels: NDArray[np.float64], note: str) -> bytes:
    """Encode in the stored type. JPEG uses its best quality and no subsampling."""
    options = dict(image._source)
    kind, dtype = image.format, image.stored_dtype
    if kind == "tiff":
        # The note is in Software (305), and in ImageDescription (270) where the source has none.
        # Tag 339 is SampleFormat; 2 means signed integers, for which Pillow has no mode. Without
        # compression, because libtiff would round the resolution.
        options["tiffinfo"] = {270: _ascii(note)} | options["tiffinfo"] | {305: _ascii(note)}
        options["tiffinfo"] |= {339: 2} if dtype == "int16" else {}
    if kind == "jpeg":
        options |= {"quality": 100, "subsampling": 0, "comment": note}
    if dtype == "float32":
        stored: NDArray[Any] = pixels.astype(np.float32)
    else:
        stored = to_stored(pixels, dtype, np.iinfo(dtype).min, np.iinfo(dtype).max)
    if dtype == "int16":
        stored = stored.view("uint16")
    return encode_pixels(stored, kind, note, **options)


def encode_pixels(stored: NDArray[Any], kind: str, note: str = "", **options: Any) -> bytes:
    """Encode (1, H, W) or (3, H, W) stored values with Pillow."""
    from PIL import Image, PngImagePlugin

    if kind == "png" and note:
        text = PngImagePlugin.PngInfo()
        text.add_itxt("Description", note)
        options["pnginfo"] = text
    plain = stored[0] if len(stored) == 1 else np.ascontiguousarray(np.moveaxis(stored, 0, 2))
    buffer = io.BytesIO()
    Image.fromarray(plain).save(buffer, kind.upper(), **options)
    return buffer.getvalue()


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()


# --- NPY -------------------------------------------------------------------------------------


def read_npy(path: Path, slice: int | None) -> ImageFile:
    """Read an array of real numbers, (H, W), (1, H, W) or (3, H, W), without pickle."""
    pick(path, slice, 1)
    with reading(path, "NPY"):
        # With a mapped file, a header that promises more than the file has allocates nothing.
        array = np.load(os.fspath(path), mmap_mode="r", allow_pickle=False)
    if array.dtype.kind not in "buif":
        raise ImageFileError(
            f"{path} holds {array.dtype.name} values, but an image has real numbers; save its "
            "magnitude or its real part"
        )
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[0] in (1, 3)):
        raise ImageFileError(
            f"{path} has shape {array.shape}, but an image is (H, W), (1, H, W) or (3, H, W); "
            "choose a slice, or move the channels to the front, and save it again"
        )
    check_size(path, *array.shape[-2:])
    top = {"bool": 1.0, "uint8": 255.0, "uint16": 65535.0}.get(array.dtype.name)
    return ImageFile(
        pixels=np.array(array, dtype=np.float64).reshape(-1, *array.shape[-2:]),
        format="npy",
        path=path,
        stored_dtype=array.dtype.name,
        value_range=None if top is None else (0.0, top),
        _source=array.ndim,
    )


def encode_npy(image: ImageFile, pixels: NDArray[np.float64], note: str) -> bytes:
    """Encode as float with the dimensions of the source.

    The type is float64 where the source has it, else float32.
    """
    dtype = np.float64 if image.stored_dtype in ("float64", "longdouble") else np.float32
    buffer = io.BytesIO()
    np.save(buffer, (pixels[0] if image._source == 2 else pixels).astype(dtype))
    return buffer.getvalue()
