"""Finds the slices in a folder of images, by the content of its files.

`find_slices` decides what is an image and which slices are taken. `gprior.training.folder` decides
what is held out, and reports.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from gprior.checks import InputError
from gprior.images import (
    EXTENSIONS,
    EmptyImageError,
    ImageFile,
    ImageFileError,
    open_slices,
    origin_of,
    recognise,
    some_slice,
    values_inside,
)

__all__ = ["Choice", "Slice", "files_in", "find_slices", "is_image"]


@dataclass(frozen=True)
class Choice:
    """What is taken from a folder, and how it becomes [0, 1].

    Attributes
    ----------
    slices : str
        ``"middle"``: the middle slice of each file, and every file of a DICOM series; ``"all"``:
        the middle 80 % of each volume; ``"LO-HI"``: these slices of each volume, counted from 0,
        both included.
    axis : int, optional
        See `gprior.images.read_image`. Files other than NIfTI ignore it.
    intensity : (float, float), "percentile" or None
        See `gprior.images.to_unit`; the same for every image.
    folders : str
        What the first level of subfolders is: ``"classes"`` or ``"patients"``.
    """

    slices: str = "middle"
    axis: int | None = None
    intensity: tuple[float, float] | Literal["percentile"] | None = None
    folders: str = "classes"

    def __post_init__(self) -> None:
        self.of(1)
        if self.folders not in ("classes", "patients"):
            raise InputError(f"folders must be 'classes' or 'patients', got {self.folders!r}")

    def of(self, count: int) -> range:
        """Return the indices of the slices that are taken of a volume with `count` slices."""
        if self.slices == "middle":
            return range(count // 2, count // 2 + 1)
        if self.slices == "all":
            return range(count // 10, count - count // 10)
        limits = re.fullmatch(r"(\d+)-(\d+)", self.slices)
        if limits is None or int(limits[1]) > int(limits[2]):
            raise InputError(
                f"slices must be 'middle', 'all' or LO-HI, such as 40-120, got {self.slices!r}"
            )
        return range(int(limits[1]), min(int(limits[2]) + 1, count))

    def is_empty(self, one: Slice) -> bool:
        """Return whether a slice is constant, or becomes constant in the window of `intensity`."""
        low, high = one.values[0], one.values[-1]
        if isinstance(self.intensity, tuple):
            lo, hi = sorted(self.intensity)
            return low == high or high <= lo or low >= hi
        return low == high


@dataclass(frozen=True)
class Slice:
    """An image of a folder.

    Attributes
    ----------
    path, index : Path, int
        File, and slice in this file.
    image_format, stored_dtype, size
        Format, stored type, and (H, W).
    values : tuple of float
        Smallest value, 0.2 and 99.8 percentiles, largest value.
    value_range : tuple of float or None
        See `gprior.images.ImageFile`.
    label : str
        Name of the class folder; empty if there are no classes.
    patient, volume : hashable
        Equal for slices of one patient, and of one volume.
    position : float
        Position in the series of DICOM files.
    """

    path: Path
    index: int
    image_format: str
    stored_dtype: str
    size: tuple[int, int]
    values: tuple[float, ...]
    value_range: tuple[float, float] | None
    label: str
    patient: Hashable = field(repr=False)
    volume: Hashable = field(repr=False)
    position: float = field(repr=False)


def find_slices(
    folder: Path, choice: Choice, tick: Callable[[int], object]
) -> tuple[list[Slice], int, list[tuple[str, str]]]:
    """Read every file in a folder and its subfolders.

    Files are recognised by their content. Names that begin with a dot and folders named
    ``__MACOSX`` are passed over.

    Parameters
    ----------
    folder : Path
        The folder.
    choice : Choice
        What to take.
    tick : callable
        Called with 1 after each file.

    Returns
    -------
    slices : list of Slice
        The slices that are chosen, empty ones among them, in the order of their files.
    others : int
        Number of files that are no images and do not have the name of one.
    skipped : list of (str, str)
        Name and reason of each file that should be an image but cannot be read.
    """
    slices: list[Slice] = []
    skipped: list[tuple[str, str]] = []
    others = 0
    for path in files_in(folder, broken_links=True):
        try:
            if is_image(path):
                slices += _slices_of(path, folder, choice)
            else:
                others += 1
        except EmptyImageError:
            slices.append(_empty(path))
        except (ImageFileError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            skipped.append((str(path.relative_to(folder)), reason.replace(f"{path} ", "")))
        tick(1)
    if choice.slices != "middle":
        slices = _of_series(slices, choice)
    return slices, others, skipped


def files_in(folder: Path, broken_links: bool = False) -> list[Path]:
    """Return the files in a folder and its subfolders that are not hidden, sorted.

    With ``broken_links``, links to files that are missing are among them.
    """

    def is_hidden(path: Path) -> bool:
        parts = path.relative_to(folder).parts
        return any(part.startswith(".") or part == "__MACOSX" for part in parts)

    def is_file(path: Path) -> bool:
        return path.is_file() or (broken_links and path.is_symlink() and not path.exists())

    return sorted(p for p in folder.rglob("*") if not is_hidden(p) and is_file(p))


def is_image(path: Path) -> bool:
    """Return whether a file is an image, or has the name of one, so that it should be one."""
    endings = tuple(ending for endings in EXTENSIONS.values() for ending in endings)
    try:
        recognise(path)
    except ImageFileError:
        return path.name.lower().endswith(endings)
    return True


def _slices_of(path: Path, folder: Path, choice: Choice) -> list[Slice]:
    """Return the slices of a file that are chosen."""
    with open_slices(path, choice.axis) as read:
        known, first = some_slice(read)
        slices = []
        for index in choice.of(first.slices) if first.slices > 1 else (0,):
            try:
                image = first if index == known else read(index)
                values = _values(image)
            except EmptyImageError:
                image, values = first, (0.0,) * 4
            slices.append(_slice(path, index, image, values, folder, choice))
    return slices


def _empty(path: Path) -> Slice:
    """Return what stands for a file without any pixel inside the scan: it is never chosen."""
    return Slice(path, 0, "", "", (0, 0), (0.0,) * 4, None, "", path, path, 0.0)


def _values(image: ImageFile) -> tuple[float, ...]:
    """Return smallest value, 0.2 and 99.8 percentiles and largest value."""
    return tuple(float(v) for v in np.percentile(values_inside(image), (0, 0.2, 99.8, 100)))


def _slice(
    path: Path,
    index: int,
    image: ImageFile,
    values: tuple[float, ...],
    folder: Path,
    choice: Choice,
) -> Slice:
    """Describe an image, with its class, patient and volume."""
    parts = path.relative_to(folder).parent.parts
    label = ""
    if choice.folders == "classes" and parts:
        label, parts = parts[0], parts[1:]
    origin = origin_of(image)
    volume: Hashable = origin.series or path
    return Slice(
        path=path,
        index=index,
        image_format=image.format,
        stored_dtype=image.stored_dtype,
        size=(image.pixels.shape[1], image.pixels.shape[2]),
        values=values,
        value_range=image.value_range,
        label=label,
        # The folder below a class. Patients of two classes with the same folder are the same.
        patient=origin.patient or (("folder", parts[0]) if parts else volume),
        volume=volume,
        position=origin.position,
    )


def _of_series(slices: Sequence[Slice], choice: Choice) -> list[Slice]:
    """Choose from the slices of DICOM series, which have a file each."""
    series = defaultdict(list)
    for one in slices:
        if one.volume != one.path:
            series[one.volume].append(one)
    left_out = set()
    for files in series.values():
        if len({one.path for one in files}) == len(files) > 1:
            files.sort(key=lambda one: (one.position, one.path))
            kept = choice.of(len(files))
            left_out |= {one.path for i, one in enumerate(files) if i not in kept}
    return [one for one in slices if one.path not in left_out]
