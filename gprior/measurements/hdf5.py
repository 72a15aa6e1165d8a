"""Reads k-space from HDF5: the files of fastMRI, and ISMRMRD."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from gprior.checks import InputError, integer
from gprior.measurements.arrays import Array

__all__ = ["read_hdf5"]

MAPS = ("maps", "sensitivity_maps")
TARGETS = ("reconstruction_rss", "reconstruction_esc")
NO_IMAGING = (
    "NOISE_MEASUREMENT", "NAVIGATION_DATA", "PHASECORR_DATA", "HPFEEDBACK_DATA", "DUMMYSCAN_DATA",
    "RTFEEDBACK_DATA", "SURFACECOILCORRECTIONSCAN_DATA",
)  # fmt: skip
REMEDY = 'pip install "gprior[mri]"'


def read_hdf5(path: Path, slice: int | None = None) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read one slice of an HDF5 file of k-space.

    Parameters
    ----------
    path : Path
        A file of fastMRI (``kspace``, ``mask``), or one of ISMRMRD (``dataset/data``).
    slice : int, optional
        Number of the slice, from 0; the default is the middle one.

    Returns
    -------
    arrays : dict
        ``kspace`` (coils, H, W), and ``mask`` and ``maps`` where the file has them.
    facts : dict
        The format, the slice and their number, and the length of the readout without
        oversampling (``"readout"``), where the file states it.

    Raises
    ------
    InputError
        If h5py or ismrmrd is missing, or the file has another layout or is damaged.
    OSError
        If the file cannot be opened.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError(f"k-space in HDF5 needs h5py, which is not installed: {REMEDY}") from error
    with path.open("rb"):  # raises the usual error if the file cannot be opened
        pass
    try:
        with h5py.File(path, "r") as file:
            if "kspace" in file:
                return _fastmri(path, file, slice)
            found = sorted(map(str, file))
            is_ismrmrd = any("data" in g and "xml" in g for g in map(file.get, found) if _group(g))
    except InputError:
        raise
    except Exception as error:  # h5py reports damage by errors of many types
        raise InputError(
            f"{path} is not a whole HDF5 file of k-space: {type(error).__name__}"
        ) from error
    if is_ismrmrd:
        return _ismrmrd(path, slice)
    raise InputError(
        f"{path} must have a dataset named kspace (fastMRI) or be ISMRMRD; it has {found}"
    )


def _group(value: Any) -> bool:
    return hasattr(value, "keys")


def chosen(path: Path, slice: int | None, count: int) -> int:
    """Return the number of a slice, by default of the middle one."""
    if slice is None:
        return count // 2
    number = integer("slice", slice)
    if not 0 <= number < count:
        raise InputError(f"slice {number} of {path} does not exist; it has 0 to {count - 1}")
    return number


# --- fastMRI ---------------------------------------------------------------------------------


def _fastmri(path: Path, file: Any, slice: int | None) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read (slices, H, W) of one coil or (slices, coils, H, W), with the readout along H."""
    data = file["kspace"]
    if data.ndim not in (3, 4) or data.dtype.kind != "c":
        raise InputError(
            f"kspace of {path} must be complex, (slices, H, W) or (slices, coils, H, W), got "
            f"{data.dtype} {data.shape}"
        )
    number = chosen(path, slice, len(data))
    kspace = np.asarray(data[number])
    arrays: dict[str, Array] = {"kspace": kspace if kspace.ndim == 3 else kspace[None]}
    if "mask" in file:
        arrays["mask"] = np.asarray(file["mask"])
    for name in MAPS:
        if name in file:
            maps = file[name]
            arrays["maps"] = np.asarray(maps[number] if maps.ndim == 4 else maps)
    facts = {"format": "fastMRI", "slice": number, "slices": len(data)}
    readout = _readout_of_header(file)
    if readout is None:
        readout = next((file[name].shape[-2] for name in TARGETS if name in file), None)
    return arrays, {**facts, "readout": readout}


def _readout_of_header(file: Any) -> int | None:
    """Return the length of the readout without oversampling, if the header states it."""
    if "ismrmrd_header" not in file:
        return None
    try:
        tree = ElementTree.fromstring(file["ismrmrd_header"][()])
        place = "{*}encoding/{*}reconSpace/{*}matrixSize/{*}x"
        found = tree.findtext(place)
        return None if found is None else int(found)
    except (ElementTree.ParseError, TypeError, ValueError):
        return None


# --- ISMRMRD ---------------------------------------------------------------------------------


def _ismrmrd(path: Path, slice: int | None) -> tuple[dict[str, Array], dict[str, Any]]:
    """Sort the lines of one slice of a Cartesian 2-D scan; repeated lines are averaged."""
    try:
        import ismrmrd
    except ImportError as error:
        raise InputError(f"ISMRMRD needs ismrmrd, which is not installed: {REMEDY}") from error
    try:
        with ismrmrd.File(path, mode="r") as file:
            group = file[next(iter(file.keys()))]
            header, lines = group.header, list(group.acquisitions)
    except Exception as error:  # h5py and the parser of the header have errors of many types
        raise InputError(f"{path} is not a whole ISMRMRD file: {type(error).__name__}") from error
    encoding = header.encoding[0]
    size, trajectory = encoding.encodedSpace.matrixSize, encoding.trajectory.value
    if size.z > 1 or trajectory != "cartesian":
        raise InputError(
            f"{path} must be a Cartesian 2-D scan, got the trajectory {trajectory} and "
            f"{size.z} partitions; sort its k-space into an .npz file with kspace and mask"
        )
    others = [getattr(ismrmrd, f"ACQ_IS_{name}") for name in NO_IMAGING]
    lines = [line for line in lines if not any(map(line.is_flag_set, others))]
    count = max((line.idx.slice for line in lines), default=-1) + 1
    if not count:
        raise InputError(f"{path} must have lines of k-space; it has none")
    number = chosen(path, slice, count)
    kept = [line for line in lines if _is_of(line, number)]
    if not kept:
        raise InputError(f"slice {number} of {path} has no lines of k-space; choose another one")
    limits = getattr(encoding.encodingLimits, "kspace_encoding_step_1", None)
    centre = size.y // 2 if limits is None else limits.center
    kspace = np.zeros((kept[0].data.shape[0], size.x, size.y), np.complex64)
    seen = np.zeros(size.y)
    for line in kept:
        row = line.idx.kspace_encode_step_1 - centre + size.y // 2
        start = size.x // 2 - line.center_sample
        samples = line.data
        if not 0 <= row < size.y or start < 0 or start + samples.shape[1] > size.x:
            raise InputError(
                f"{path} has a line of k-space outside the encoded matrix {size.x} x {size.y}"
            )
        kspace[:, start : start + samples.shape[1], row] += samples
        seen[row] += 1
    kspace /= np.maximum(seen, 1)
    facts = {"format": "ISMRMRD", "slice": number, "slices": count}
    facts |= {"readout": encoding.reconSpace.matrixSize.x, "lines_read": len(kept)}
    return {"kspace": kspace, "mask": seen > 0}, facts


def _is_of(line: Any, slice: int) -> bool:
    """Return whether a line belongs to the first image of a slice."""
    index = line.idx
    others = (index.contrast, index.phase, index.repetition, index.set, line.encoding_space_ref)
    return bool(index.slice == slice and not any(others))
