"""Image files and arrays: DICOM, NIfTI, TIFF, PNG, JPEG and NPY, with geometry and units."""

from __future__ import annotations

from gprior.images.io import default_intensity, from_unit, read_image, save_png, to_unit, write_like
from gprior.images.medical import STAMP
from gprior.images.raster import (
    EXTENSIONS,
    ImageFile,
    ImageFileError,
    encode_pixels as encode_pixels,
    to_stored as to_stored,
)
from gprior.images.resize import fit, unfit

__all__ = [
    "EXTENSIONS",
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
