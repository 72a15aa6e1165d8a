"""Reads several slices of one file, and says which patient and volume a slice belongs to."""

from __future__ import annotations

import hashlib
import itertools
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gprior.images.dicom_values import text_bytes
from gprior.images.io import read_image, recognise, without_nan
from gprior.images.nifti import read_nifti, unpacked
from gprior.images.raster import EmptyImageError, ImageFile, ImageFileError

__all__ = ["Origin", "open_slices", "origin_of", "some_slice"]

_KEY = secrets.token_bytes(16)


@dataclass(frozen=True)
class Origin:
    """What a slice belongs to, for a comparison with other slices in the same process.

    Attributes
    ----------
    patient, series : str or None
        Digests of identifiers in the header of a DICOM file, with a key that is drawn in each
        process. So nothing about the patient can be read from them. None where the file has no
        identifier.
    position : float
        Position along the normal of the slice in mm, or the number of the instance where the file
        does not state a position.
    """

    patient: str | None = None
    series: str | None = None
    position: float = 0.0


def origin_of(image: ImageFile) -> Origin:
    """Return patient, series and position of an image; empty for formats other than DICOM."""
    if image.format != "dicom":
        return Origin()
    header, _ = image._source

    def digest(*keywords: str) -> str | None:
        values = [text_bytes(header, keyword) for keyword in keywords]
        if not values[0]:
            return None
        return hashlib.blake2b(b"\0".join(values), key=_KEY, digest_size=16).hexdigest()

    place, axes = image.geometry["position_mm"], image.geometry["orientation"]
    if place and axes:
        position = float(np.dot(np.cross(axes[:3], axes[3:]), place))
    else:
        position = float(header.get("InstanceNumber") or 0)
    patient = digest("PatientID", "IssuerOfPatientID")
    return Origin(patient, digest("SeriesInstanceUID"), position)


@contextmanager
def open_slices(path: Path, axis: int | None = None) -> Iterator[Callable[[int | None], ImageFile]]:
    """Open a file, and yield a function that reads the slice with an index as `read_image` does.

    A compressed file is decompressed once for all slices. The axis is ignored for formats other
    than NIfTI.

    Raises
    ------
    ImageFileError, OSError
        As `read_image`; the function that is yielded raises them, too.
    """
    if recognise(path) == "nifti":
        with unpacked(path) as stream:
            yield lambda slice: without_nan(read_nifti(path, slice, axis, stream))
    else:
        yield lambda slice: read_image(path, slice)


def some_slice(read: Callable[[int | None], ImageFile]) -> tuple[int, ImageFile]:
    """Return index and image of the middle slice, or of the first one that is not empty.

    Raises
    ------
    EmptyImageError
        If every slice is empty.
    ImageFileError, OSError
        As `read_image`.
    """
    try:
        image = read(None)
        return image.slices // 2, image
    except EmptyImageError as error:
        empty = error
    for index in itertools.count():
        try:
            return index, read(index)
        except EmptyImageError:
            continue
        except ImageFileError:
            break  # there are no more slices
    raise empty
