"""Reads and writes image files: DICOM, NIfTI, TIFF, PNG, JPEG and NPY, with geometry and units.

The way of an image through this package, from a file to a prior and back:

    image = read_image("scan.dcm")                      # physical units, geometry
    unit, intensity = to_unit(image)                    # [LO, HI] -> [0, 1]
    x, record = fit(unit, (64, 64))                     # the grid of the prior
    ...                                                 # reconstruct x
    write_like("out.dcm", unfit(x, record), image, intensity, "lbrgm")

``io`` has the functions that users call; ``raster``, ``dicom`` and ``nifti`` have the formats, and
``resize`` has `fit` and `unfit`; ``stacks`` and ``volumes`` have the slices of a file or a series.
"""

from __future__ import annotations

from gprior.images.dicom_derived import STAMP
from gprior.images.io import (
    default_intensity,
    from_unit,
    percentile_intensity,
    read_image,
    recognise as recognise,
    save_png,
    to_unit,
    values_inside as values_inside,
    write_like,
)
from gprior.images.raster import (
    EXTENSIONS,
    EmptyImageError as EmptyImageError,
    ImageFile,
    ImageFileError,
    encode_pixels as encode_pixels,
    to_stored as to_stored,
)
from gprior.images.resize import fit, is_square as is_square, unfit
from gprior.images.stacks import (
    open_slices as open_slices,
    origin_of as origin_of,
    some_slice as some_slice,
)
from gprior.images.volumes import (
    Volume as Volume,
    open_volume as open_volume,
    volume_intensity as volume_intensity,
    write_volume as write_volume,
)

__all__ = [
    "EXTENSIONS",
    "STAMP",
    "ImageFile",
    "ImageFileError",
    "default_intensity",
    "fit",
    "from_unit",
    "percentile_intensity",
    "read_image",
    "save_png",
    "to_unit",
    "unfit",
    "write_like",
]
