"""Reads the files of NumPy, and checks what they must have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gprior.checks import InputError

__all__ = ["Array", "finite", "read_npy", "read_npz", "scalar"]

Array = np.ndarray[Any, Any]


def read_npy(path: Path) -> Array:
    """Read the array of numbers of an ``.npy`` file. Pickles are refused."""
    try:
        with path.open("rb") as stream:  # np.load does not close a file that it cannot read
            array = np.load(stream, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy's parser of headers has many errors
        raise InputError(f"{path} is not a whole .npy file of numbers: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buifc":
        raise InputError(f"{path} is not a .npy file of one array of numbers")
    return array


def read_npz(path: Path) -> dict[str, Array]:
    """Read the arrays of an ``.npz`` file by name. Pickles are refused."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zipfile and zlib have errors of their own
        raise InputError(f"{path} is not a whole .npz file of numbers: {error}") from error


def finite(path: Path, name: str, values: Any, kinds: str = "buif") -> Array:
    """Return numbers of a file, refused unless they are of such kinds and finite."""
    array = np.asarray(values)
    if array.dtype.kind not in kinds or not array.size:
        what = "complex numbers" if kinds == "c" else "real numbers"
        raise InputError(
            f"{name} of {path} must be {what}, got {array.dtype} of shape {array.shape}"
        )
    if not np.isfinite(array).all():
        raise InputError(f"{name} of {path} must be finite; it has NaN or infinity")
    return array


def scalar(path: Path, name: str, values: dict[str, Array], default: float) -> float:
    """Return a positive number of a file, or the default where the file has none."""
    if name not in values:
        return default
    array = finite(path, name, values[name])
    if array.size != 1 or array.item() <= 0:
        raise InputError(f"{name} of {path} must be one positive number, got {array.tolist()}")
    return float(array.item())
