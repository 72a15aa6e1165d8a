"""Reads the slices of a volume, and writes a volume that is derived from them.

A volume is a NIfTI file, a DICOM file of several frames, or a folder with one DICOM series. At no
time is more than one slice of pixels in memory, beside the bytes of a compressed NIfTI file.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gprior.files import atomic_write, write_bytes
from gprior.images.dicom_derived import STAMP, encode_dicom, new_series
from gprior.images.dicom_values import text_bytes
from gprior.images.io import (
    deriving,
    physical_like,
    read_image,
    recognise,
    to_unit,
    values_inside,
)
from gprior.images.nifti import derived_nifti, voxels_of
from gprior.images.raster import EmptyImageError, ImageFile, ImageFileError, reading
from gprior.images.stacks import open_slices, some_slice

__all__ = ["Volume", "open_volume", "volume_intensity", "write_volume"]

POOL = 2**20  # values of a volume that decide its intensity


@dataclass(frozen=True, eq=False)
class Volume:
    """The slices of a volume.

    Attributes
    ----------
    path : pathlib.Path
        The file or folder.
    format : str
        ``"nifti"`` or ``"dicom"``.
    count : int
        Number of slices.
    files : tuple of Path
        The files, in the order of the slices.
    read : callable
        ``read(index)`` returns a slice, as `read_image` does. An `EmptyImageError` means that the
        slice has no pixel inside the scan.
    """

    path: Path
    format: str
    count: int
    files: tuple[Path, ...]
    read: Callable[[int], ImageFile]


@contextmanager
def open_volume(path: str | os.PathLike[str], axis: int | None = None) -> Iterator[Volume]:
    """Open a volume for reading slice by slice.

    Parameters
    ----------
    path : path-like
        A NIfTI file, a DICOM file, or a folder with the files of one DICOM series. These are sorted
        by their position along the normal of the slices, not by their names.
    axis : int, optional
        The voxel axis of a NIfTI file along which slices count; see `read_image`.

    Yields
    ------
    Volume
        The slices.

    Raises
    ------
    ImageFileError
        If it is none of these, or a folder has no series or several ones.
    OSError
        If a file cannot be opened.
    """
    path = Path(path)
    if path.is_dir():
        frames = _series(path)
        files = tuple(dict.fromkeys(file for file, _ in frames))
        yield Volume(path, "dicom", len(frames), files, lambda i: read_image(*frames[i]))
        return
    kind = recognise(path)
    if kind not in ("nifti", "dicom"):
        raise ImageFileError(
            f"{path} is {kind}, but a volume is a NIfTI file, a DICOM file or a folder with one "
            "DICOM series; reconstruct one image instead"
        )
    with open_slices(path, axis) as read:
        yield Volume(path, kind, some_slice(read)[1].slices, (path,), read)


def _series(folder: Path) -> list[tuple[Path, int]]:
    """Return file and frame of each slice of the one DICOM series in a folder."""
    import pydicom

    found: list[tuple[bytes, tuple[float, float], Path, int]] = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file() or not _is_dicom(path):
            continue
        with reading(path, "DICOM"):
            data = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            if "Rows" not in data:  # an index, a report or a plan
                continue
            series = text_bytes(data, "SeriesInstanceUID")
            found.append((series, _order(data), path, int(data.get("NumberOfFrames") or 1)))
    series_sizes = Counter(entry[0] for entry in found)
    if len(series_sizes) != 1:
        sizes = " and ".join(str(n) for n in series_sizes.values())
        raise ImageFileError(
            f"{folder} must have the files of one DICOM series, it has "
            + (f"{len(series_sizes)} series of {sizes} files" if found else "no DICOM images")
            + "; give a folder with one series"
        )
    found.sort(key=lambda entry: entry[1:3])
    return [(path, frame) for _, _, path, frames in found for frame in range(frames)]


def _is_dicom(path: Path) -> bool:
    try:
        return recognise(path) == "dicom"
    except ImageFileError:
        return False


def _order(data: Any) -> tuple[float, float]:
    """Return the position along the normal in mm and the number of an instance."""
    number = float(data.get("InstanceNumber") or 0)
    place, axes = data.get("ImagePositionPatient"), data.get("ImageOrientationPatient")
    if not place or not axes:
        return 0.0, number
    directions = [float(value) for value in axes]
    normal = np.cross(directions[:3], directions[3:])
    # Rounding must not separate slices at the same position, such as the echoes of a sequence.
    return round(float(normal @ [float(value) for value in place]), 3), number


def volume_intensity(
    volume: Volume,
    indices: Sequence[int],
    intensity: tuple[float, float] | Literal["percentile"] | None,
) -> tuple[float, float]:
    """Return the physical values that become 0 and 1 in every slice of a volume.

    They are those of `to_unit`, where the percentiles are over the slices together.

    Parameters
    ----------
    volume : Volume
        The volume.
    indices : sequence of int
        The slices.
    intensity : (float, float), "percentile" or None
        See `to_unit`.

    Raises
    ------
    InputError
        As `to_unit`.
    EmptyImageError
        If every slice is empty.
    """
    if isinstance(intensity, tuple):
        return intensity
    pool, image = [], None
    quota = max(POOL // len(indices), 1)
    for index in indices:
        with suppress(EmptyImageError):
            image = volume.read(index)
            if image.background is None or not image.background.all():
                values = values_inside(image)
                pool.append(values[:: max(len(values) // quota, 1)])
    if image is None or not pool:
        raise EmptyImageError(f"{volume.path} has no slice with a pixel inside the scan")
    together = replace(image, pixels=np.concatenate(pool)[None, None], background=None)
    return to_unit(together, intensity)[1]


def write_volume(
    folder: Path,
    volume: Volume,
    indices: Sequence[int],
    unit_of: Callable[[int], ArrayLike | None],
    intensity: Sequence[float],
    description: str,
) -> str:
    """Write reconstructed slices as one NIfTI file, or as a new DICOM series.

    Each slice is written as `write_like` does. A DICOM series has a file for each slice, numbered
    in the order of the slices, with the place of its source and a reference to it.

    Parameters
    ----------
    folder : Path
        Folder for ``reconstruction.nii.gz``, ``reconstruction.nii`` or ``reconstruction``.
    volume : Volume
        The volume that was reconstructed.
    indices : sequence of int
        The slices, ascending and without gaps.
    unit_of : callable
        ``unit_of(index)`` returns the pixels (C, H, W) of a slice in [0, 1], or None for an empty
        slice, which is NaN in NIfTI and left out of a DICOM series.
    intensity : (float, float)
        The values that 0 and 1 stand for.
    description : str
        How the reconstruction was made.

    Returns
    -------
    str
        Name of the file or folder.

    Raises
    ------
    ImageFileError
        If no volume can be derived from the source.
    OSError
        As `gprior.files.atomic_write`.
    """
    note = f"{STAMP}: {description}"
    slices = _derived_slices(volume, indices, unit_of, intensity)
    if volume.format == "dicom":
        return _write_series(folder, slices, note)
    return _write_nifti(folder, volume, slices, indices[0], note)


_Slices = Iterator[tuple[ImageFile, NDArray[np.float64]] | None]


def _derived_slices(
    volume: Volume,
    indices: Sequence[int],
    unit_of: Callable[[int], ArrayLike | None],
    intensity: Sequence[float],
) -> _Slices:
    """Yield the source and the physical values of each slice; None for an empty slice."""
    for index in indices:
        unit = unit_of(index)
        if unit is None:
            yield None
        else:
            image = volume.read(index)
            yield image, physical_like(unit, image, intensity)


def _write_series(folder: Path, slices: _Slices, note: str) -> str:
    name, series = "reconstruction", new_series()
    (folder / name).mkdir()
    for number, one in enumerate(slices, 1):
        if one is not None:
            image, pixels = one
            with deriving(image):
                data = encode_dicom(image, pixels, note, series, number)
            write_bytes(folder / name / f"{number:04}.dcm", data, "the reconstruction")
    return name


def _write_nifti(folder: Path, volume: Volume, slices: _Slices, start: int, note: str) -> str:
    """Write the slices one after the other, and then the file from there."""
    name = "reconstruction.nii" + ".gz" * (volume.path.suffix.lower() == ".gz")
    planes, first, count = folder / ".slices", None, 0
    try:
        with planes.open("wb") as file:
            for one in slices:
                count += 1
                if one is None and first is None:
                    continue
                if one is not None:
                    image, pixels = one
                    plane = voxels_of(image, pixels)
                else:
                    plane = np.full_like(plane, np.nan)
                if first is None:
                    first = image
                    file.write(np.full_like(plane, np.nan).tobytes() * (count - 1))
                file.write(plane.tobytes())
        if first is None:
            raise EmptyImageError(f"{volume.path} has no slice with a pixel inside the scan")
        axis = first.geometry["axis"]
        stacked = np.memmap(planes, np.float32, "r", shape=(count, *plane.shape))
        voxels = np.moveaxis(stacked, 0, axis).squeeze(axis + 1)
        place = replace(first, geometry=first.geometry | {"slice": start})
        with deriving(first), atomic_write(folder / name, "the reconstruction") as temporary:
            derived_nifti(place, voxels, note).to_filename(temporary)
    finally:
        planes.unlink(missing_ok=True)
    return name
