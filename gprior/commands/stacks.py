"""The slices of a volume as tasks: of images that are measured first, or of k-space."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gprior.checks import InputError
from gprior.commands.arguments import parse_intensity
from gprior.commands.outcome import shown
from gprior.commands.task import (
    Options,
    Scene,
    Scenes,
    Source,
    Task,
    measured,
    scanned,
)
from gprior.files import atomic_write
from gprior.images import (
    EmptyImageError,
    ImageFile,
    Volume,
    open_volume,
    unfit,
    volume_intensity,
    write_volume,
)
from gprior.measurements import Acquisition

__all__ = ["Stack", "open_stack"]

BATCH = 16  # slices that are solved together


class Stack(Protocol):
    """The slices of a volume as tasks."""

    @property
    def indices(self) -> Sequence[int]:
        """The slices, ascending."""

    @property
    def files(self) -> Sequence[Path]:
        """The files of the volume."""

    @property
    def batch(self) -> int:
        """Number of slices that can be solved together: they share an operator and a prior."""

    def task(self, index: int) -> Task | None:
        """Return the task of a slice; None if it is empty."""

    def check(self, how: str) -> None:
        """Refuse a volume that could not be written, before the search."""

    def write(self, place: Path, image_of: Callable[[int], Tensor], how: str) -> dict[str, Any]:
        """Write the volume of the images (1, C, H, W), and return facts about it."""


# --- Images ----------------------------------------------------------------------------------


@contextmanager
def open_stack(source: Path, options: Options, scenes: Scenes | None = None) -> Iterator[Stack]:
    """Open the source of the slices."""
    if options.slice is not None:
        raise InputError("slice and slices exclude each other; give one of them")
    scenes = scenes or Scenes(options)
    if not options.simulate:
        if options.scanner != "mri":
            raise InputError(
                "slices is for images and for k-space; add --simulate to measure images"
            )
        yield KSpaceStack(source, options, scenes)
        return
    with open_volume(source, options.axis) as volume:
        indices = chosen(options.slices or "all", volume.count)
        window = volume_intensity(volume, indices, parse_intensity(options.intensity))
        first = next(image for i in indices if (image := _slice(volume, i)) is not None)
        yield ImageStack(volume, indices, window, scenes.of(options, first), options)


def chosen(text: str, count: int) -> range:
    """Return the slices that ``"all"`` or ``"LO-HI"`` stands for.

    Examples
    --------
    >>> chosen("2-5", 10)
    range(2, 6)
    """
    if text == "all":
        return range(count)
    limits = re.fullmatch(r"(\d+)-(\d+)", text)
    if limits is None or not int(limits[1]) <= int(limits[2]) < count:
        raise InputError(
            f"slices must be all, or LO-HI within 0-{count - 1}, such as 0-{count // 2}, "
            f"got {text!r}"
        )
    return range(int(limits[1]), int(limits[2]) + 1)


def _slice(volume: Volume, index: int) -> ImageFile | None:
    """Return a slice, or None if it is empty."""
    try:
        return volume.read(index)
    except EmptyImageError:
        return None


@dataclass(frozen=True, eq=False)
class ImageStack:
    """Slices that are measured first."""

    volume: Volume
    indices: Sequence[int]
    window: tuple[float, float]
    scene: Scene
    options: Options

    @property
    def batch(self) -> int:
        """Number of slices that can be solved together."""
        return BATCH

    @property
    def files(self) -> Sequence[Path]:
        """The files of the volume."""
        return self.volume.files

    def task(self, index: int) -> Task | None:
        """Return the task of a slice; None if it is empty."""
        image = _slice(self.volume, index)
        if image is None:
            return None
        return measured(image, self.window, self.options, self.scene, index)

    def check(self, how: str) -> None:
        """Write one slice of the volume, so that it is refused before the search."""
        with TemporaryDirectory() as folder:
            first = next(index for index in self.indices if self.task(index) is not None)
            self._write(Path(folder), [first], lambda task, _: task.truth, how)

    def write(self, place: Path, image_of: Callable[[int], Tensor], how: str) -> dict[str, Any]:
        """Write the volume as NIfTI or DICOM, on the grid of its source."""
        name = self._write(place, self.indices, lambda _, index: image_of(index), how)
        return {"volume": name, "format": self.volume.format, "intensity": list(self.window)}

    def _write(
        self,
        place: Path,
        indices: Sequence[int],
        image_of: Callable[[Source, int], Tensor],
        how: str,
    ) -> str:
        def unit_of(index: int) -> NDArray[Any] | None:
            task = self.task(index)
            if task is None or task.source is None:
                return None
            x = shown(image_of(task.source, index))[0].cpu().numpy()
            return unfit(x, task.source.fitted)

        return write_volume(place, self.volume, indices, unit_of, self.window, how)


# --- k-space ---------------------------------------------------------------------------------


class KSpaceStack:
    """Slices of k-space, each with its own maps and phase, and so its own operator and prior."""

    batch = 1

    def __init__(self, path: Path, options: Options, scenes: Scenes) -> None:
        self.path, self.options, self.scenes, self.files = path, options, scenes, [path]
        facts = _acquisition(scanned(path, options, scenes)).record
        self.indices: Sequence[int] = chosen(options.slices or "all", int(facts["slices"]))

    def check(self, how: str) -> None:
        """Accept it: every result can be written as numbers."""

    def task(self, index: int) -> Task:
        """Return the task of a slice."""
        return scanned(self.path, replace(self.options, slice=index), self.scenes)

    def write(self, place: Path, image_of: Callable[[int], Tensor], how: str) -> dict[str, Any]:
        """Write the complex images (slices, H, W) in the units of the file."""
        records = []
        path = place / "reconstruction.npy"
        with atomic_write(path, "the reconstruction") as temporary, temporary.open("wb") as file:
            for index in self.indices:
                acquisition = _acquisition(self.task(index))
                records.append(acquisition.record)
                pixels = acquisition.in_file_units(image_of(index))[0]
                if index == self.indices[0]:
                    shape = (len(self.indices), *pixels.shape)
                    descr = np.lib.format.dtype_to_descr(pixels.dtype)
                    header = {"descr": descr, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_2_0(file, header)
                file.write(pixels.tobytes())
        return {"volume": path.name, "acquisitions": records}


def _acquisition(task: Task) -> Acquisition:
    if task.acquisition is None:
        raise InputError("a slice of k-space must have an acquisition")
    return task.acquisition
