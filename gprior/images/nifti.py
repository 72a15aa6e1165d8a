"""Reads one slice of a NIfTI file, and encodes a volume of one slice that is derived from it.

The derived slice has the place in the world of the slice that was read.
"""

from __future__ import annotations

import builtins
import gzip
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from gprior.checks import InputError, integer
from gprior.images.calibration import pixel_size
from gprior.images.raster import (
    MAX_PIXELS,
    ImageFile,
    ImageFileError,
    check_size,
    pick,
    reading,
)

__all__ = ["derived_nifti", "encode_nifti", "read_nifti", "unpacked", "voxels_of"]


def read_nifti(
    path: Path, slice: int | None, axis: int | None, stream: BinaryIO | None = None
) -> ImageFile:
    """Read one slice of the first volume of a NIfTI file, in the usual radiological orientation.

    Without `axis`, slices are counted along the only axis of length 1, where there is one, or else
    along the last axis. `stream` has the uncompressed bytes of the file, if they are read already.

    The slice is transposed and flipped so that rows run from anterior to posterior or from
    superior to inferior, and columns from the patient's right to left or from anterior to
    posterior. This is the convention of DICOM. ``geometry["display"]`` records what was done.
    """
    try:
        axis = None if axis is None else integer("axis", axis, 0, 2)
    except InputError as error:
        raise ImageFileError(f"{error}; {path} has no axis {axis!r}") from None
    opened = _nifti_stream(path) if stream is None else nullcontext(stream)
    with reading(path, "NIfTI"), opened as file_bytes:
        file, version = _open(file_bytes)
        header, affine = file.header, file.affine
        dtype, ndim = header.get_data_dtype(), len(file.shape)
        if dtype.kind not in "iuf":
            raise ImageFileError(
                f"{path} holds {'colour' if dtype.names else 'complex'} values ({dtype.name}), but "
                f"an image has one real number per voxel; {_to_real(path, dtype)}"
            )
        shape = (*file.shape, 1, 1)[:3]
        if axis is None:
            axis = shape.index(1) if shape.count(1) == 1 else 2
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


def _to_real(path: Path, dtype: Any) -> str:
    """Return the line of Python that makes a NIfTI file of real numbers and keeps the geometry."""
    real, what = "numpy.abs(data)", "its magnitude"
    if dtype.names:
        real, what = "sum(data[c] / 3.0 for c in 'RGB')", "the mean of its colours"
    name = path.name
    return (
        f"save {what} with the same geometry: image = nibabel.load({name!r}); "
        f"data = numpy.asarray(image.dataobj); nibabel.save(nibabel.Nifti1Image("
        f"({real}).astype('f4'), image.affine), 'real.nii.gz')"
    )


def _open(stream: BinaryIO) -> tuple[Any, Any]:
    """Return the image in a stream, whose values are not read yet, and its class."""
    import nibabel

    stream.seek(0)
    version = nibabel.Nifti2Image if stream.read(8)[4:7] == b"n+2" else nibabel.Nifti1Image
    stream.seek(0)
    return version.from_stream(stream), version


@contextmanager
def unpacked(path: Path) -> Iterator[BinaryIO]:
    """Open the uncompressed bytes of the first volume of a file, with fast access to every slice.

    A compressed file is read into memory, if its first volume has at most 2 GiB.
    """
    with _nifti_stream(path) as stream:
        data: BinaryIO = stream
        if _is_compressed(path):
            with reading(path, "NIfTI"):
                file, _ = _open(stream)
                size = math.prod(file.shape[:3]) * file.header.get_data_dtype().itemsize
                size += int(file.dataobj.offset)
                stream.seek(0)
                if 0 <= size <= 2**31:
                    data = io.BytesIO(stream.read(size))
        yield data


def _nifti_stream(path: Path) -> BinaryIO:
    """Open the uncompressed bytes of a file. Its name has no influence."""
    return cast("BinaryIO", gzip.open(path) if _is_compressed(path) else path.open("rb"))


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _nifti_geometry(
    header: Any, affine: NDArray[np.float64], axis: int, index: int, shape: tuple[int, ...]
) -> dict[str, Any]:
    """Return grid and place of a slice, and how it is turned upright."""
    from nibabel.orientations import aff2axcodes, io_orientation

    rows, columns = (a for a in range(3) if a != axis)
    zooms = [float(value) for value in np.linalg.norm(affine[:3, :3], axis=0)]
    units = header.get_xyzt_units()[0]
    scale = {"meter": 1000.0, "micron": 0.001}.get(units, 1.0)  # unknown units are millimetres
    orientation = io_orientation(affine)
    transpose = False
    flips = [False, False]
    if np.isfinite(orientation).all():
        # The world axes are right, anterior and superior. Of the two axes of the slice, the rows
        # follow the later one. Rows and columns both run against the direction of their axis.
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
        "units": units,
        "display": {"transpose": transpose, "flip_rows": flips[0], "flip_columns": flips[1]},
        **pixel_size((zooms[rows] * scale, zooms[columns] * scale)),
    }


def _upright(plane: NDArray[np.float64], display: dict[str, bool]) -> NDArray[np.float64]:
    """Transpose and flip a slice."""
    plane = plane.T if display["transpose"] else plane
    return plane[
        :: -1 if display["flip_rows"] else 1,
        :: -1 if display["flip_columns"] else 1,
    ]


def encode_nifti(image: ImageFile, pixels: NDArray[np.float64], note: str) -> bytes:
    """Encode a float32 volume of this one slice, at the slice's place in the world."""
    return cast(bytes, derived_nifti(image, voxels_of(image, pixels), note).to_bytes())


def voxels_of(image: ImageFile, pixels: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return an upright slice (1, H, W) as voxels of the volume, with length 1 along its axis."""
    display = image.geometry["display"]
    # To flip twice changes nothing. On the way back, the flips come before the transpose.
    flat = _upright(pixels[0], display | {"transpose": False})
    voxels = np.expand_dims(flat.T if display["transpose"] else flat, image.geometry["axis"])
    return voxels.astype(np.float32)


def derived_nifti(image: ImageFile, voxels: NDArray[np.float32], note: str) -> Any:
    """Return a NIfTI image of slices, of which the first one has the place of `image`."""
    version, header, affine = image._source
    axis, index = image.geometry["axis"], image.geometry["slice"]
    header = header.copy()
    header.set_data_dtype(np.float32)
    header.extensions.clear()  # they may describe the other slices and volumes
    header["descrip"] = note.encode("ascii", "replace")[:79]
    for key in ("slice_start", "slice_end", "slice_code", "slice_duration"):
        header[key] = 0

    def moved(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return an affine whose first slice is the one that was read."""
        matrix = matrix.copy()
        matrix[:3, 3] += matrix[:3, axis] * index
        return matrix

    file = version(voxels, moved(affine), header)
    # A changed affine makes nibabel rewrite both codes, but the space is the same as before.
    for name in ("qform", "sform"):
        matrix, code = getattr(header, f"get_{name}")(coded=True)
        if code:
            getattr(file, f"set_{name}")(moved(matrix), int(code))
        elif int(header["sform_code"]) or int(header["qform_code"]):
            getattr(file, f"set_{name}")(None, 0)
    return file
