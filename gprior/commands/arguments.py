"""What the words of the command line mean: operators, constants, measurement files."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from gprior.checks import InputError, InputTypeError
from gprior.operators import Downsampling, Masking, PartialCirculant
from gprior.solvers import SOLVERS

__all__ = [
    "constant_names",
    "parse_constants",
    "parse_intensity",
    "parse_operator",
    "read_measurements",
]

OPERATORS = "half-mask, mask:FILE, downsample:FACTOR, circulant:SHARE or matrix:FILE"


def parse_operator(spec: str, image_shape: tuple[int, int, int], seed: int = 0) -> Any:
    """Return the operator that a specification names.

    Parameters
    ----------
    spec : str
        ``"half-mask"`` (the left half is missing), ``"mask:FILE"`` (an image file, nonzero is
        observed), ``"downsample:4"``, ``"circulant:0.1"`` (a share of the pixels, or a count)
        or ``"matrix:FILE"`` (``.npy``, or ``.npz`` of `scipy.sparse`, acting on
        ``x.flatten(1)``).
    image_shape : tuple of int
        (C, H, W) that it acts on.
    seed : int
        Of the circulant's signs, filter and samples.

    Returns
    -------
    Operator, ndarray or scipy.sparse matrix
        What `gprior.solve` takes as A.

    Raises
    ------
    ValueError
        If the specification is none of these, or does not fit the image.

    Examples
    --------
    >>> parse_operator("downsample:4", (1, 64, 64)).measurement_shape
    (1, 16, 16)
    """
    kind, colon, value = spec.partition(":")
    if spec == "half-mask":
        return Masking(image_shape, "half")
    if not colon or not value:
        raise InputError(f"operator must be {OPERATORS}, got {spec!r}")
    if kind == "mask":
        return Masking(image_shape, Path(value))
    if kind == "matrix":
        return _read_matrix(Path(value), image_shape)
    if kind not in ("downsample", "circulant"):
        raise InputError(f"operator must be {OPERATORS}, got {spec!r}")
    try:
        number = int(value) if value.isdecimal() else float(value)
    except ValueError as error:
        raise InputError(f"operator {spec!r} needs a number after the colon") from error
    if kind == "circulant":
        return PartialCirculant(image_shape, number, seed=seed)
    if not isinstance(number, int):
        raise InputError(f"operator {spec!r} needs a whole number after the colon")
    return Downsampling(image_shape, number)


def _read_matrix(path: Path, image_shape: tuple[int, int, int]) -> Any:
    """Read a dense (.npy) or sparse (.npz) matrix with one column per pixel."""
    n = math.prod(image_shape)
    if path.suffix == ".npz":
        try:
            with path.open("rb") as stream:
                matrix = sparse.load_npz(stream)
        except OSError:
            raise
        except Exception as error:
            raise InputError(
                f"{path} is not a whole sparse matrix; write it with scipy.sparse.save_npz"
            ) from error
        values = matrix.data
    else:
        matrix = values = _read_array(path)
    if matrix.ndim != 2 or matrix.shape[1] != n or matrix.shape[0] < 1:
        raise InputError(
            f"matrix {path} must have shape (m, {n}) to act on images {image_shape}, "
            f"got {matrix.shape}"
        )
    if values.dtype.kind not in "buif" or not np.isfinite(values).all():
        raise InputError(f"matrix {path} must hold real, finite numbers, got {values.dtype}")
    return matrix.astype(np.float64) if sparse.issparse(matrix) else matrix.astype(np.float32)


def read_measurements(path: Path) -> Tensor:
    """Read measurements as float32, without ever unpickling code.

    Parameters
    ----------
    path : Path
        ``.npy``; ``.npz``, ``.pt`` or ``.safetensors`` with one array, or one named ``y``.

    Raises
    ------
    ValueError
        If the file is of another kind, damaged, or holds no single array of real numbers.
    OSError
        If it cannot be opened.
    """
    readers = {".npy": _read_array, ".npz": _read_npz, ".pt": _read_pt, ".safetensors": _read_st}
    if path.suffix not in readers:
        raise InputError(
            f"measurements must be a {', '.join(readers)} file, got {path}; "
            "to measure an image, add --simulate"
        )
    with path.open("rb"):  # the plain error of a file that cannot be opened
        pass
    values = torch.as_tensor(_only(path, readers[path.suffix](path)))
    if values.is_complex():
        raise InputError(f"{path} holds complex numbers; the operators here measure real ones")
    return values.float()


def _read_array(path: Path) -> np.ndarray[Any, Any]:
    try:
        with path.open("rb") as stream:  # np.load leaves files open that it cannot read
            array = np.load(stream, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy's parser of headers has many errors
        raise InputError(f"{path} is not a whole .npy file of numbers: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buifc":
        raise InputError(f"{path} is not a .npy file of one array of numbers")
    return array


def _read_npz(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zipfile and zlib have errors of their own
        raise InputError(f"{path} is not a whole .npz file of numbers: {error}") from error


def _read_pt(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's, zipfile's and torch's own
        raise InputError(
            f"{path} is not a whole .pt file of tensors ({type(error).__name__}); "
            "save the measurements with torch.save(tensor, path)"
        ) from error


def _read_st(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole .safetensors file: {error}") from error


def _only(path: Path, found: Any) -> Any:
    """Return the array in what a file held: itself, the one named y, or the only one."""
    if isinstance(found, dict):
        names = sorted(map(str, found))
        if "y" not in found and len(found) != 1:
            raise InputError(f"{path} must hold one array, or one named 'y'; it holds {names}")
        found = found["y"] if "y" in found else next(iter(found.values()))
    if not isinstance(found, Tensor | np.ndarray):
        raise InputError(f"{path} must hold an array of numbers, got {type(found).__name__}")
    if isinstance(found, np.ndarray) and found.dtype.kind not in "buifc":
        raise InputError(f"{path} must hold numbers, got {found.dtype}")
    return found


def parse_intensity(text: str) -> tuple[float, float]:
    """Return LO and HI of ``"LO,HI"``.

    >>> parse_intensity("-160,240")
    (-160.0, 240.0)
    """
    try:
        lo, hi = map(float, text.split(","))
    except ValueError as error:
        raise InputError(f"intensity must be LO,HI such as -160,240, got {text!r}") from error
    return lo, hi


def constant_names() -> set[str]:
    """Return the names of the constants of all methods."""
    return {field.name for solver in SOLVERS.values() for field in fields(solver)}


def parse_constants(solver: str, pairs: Iterable[str]) -> dict[str, Any]:
    """Return a solver's constants from ``NAME=VALUE``, each of its field's type.

    Parameters
    ----------
    solver : str
        A name in `gprior.solvers.SOLVERS`.
    pairs : iterable of str
        Tuples are written with commas: ``betas=0.9,0.99``.

    Raises
    ------
    ValueError
        If the solver is unknown, or a pair or value cannot be read.
    TypeError
        If the solver has no such constant; the message lists the valid ones.

    Examples
    --------
    >>> parse_constants("lbrgm", ["lr=0.05", "init=best-of:20", "betas=0.9,0.99"])
    {'lr': 0.05, 'init': 'best-of:20', 'betas': (0.9, 0.99)}
    """
    if solver not in SOLVERS:
        raise InputError(f"solver {solver!r} is unknown; solvers are {sorted(SOLVERS)}")
    valid = [field.name for field in fields(SOLVERS[solver])]
    hints, found = get_type_hints(SOLVERS[solver]), {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--set must be NAME=VALUE, got {pair!r}")
        if name not in valid:
            raise InputTypeError(
                f"{solver} has no constant {name!r}; its constants are {sorted(valid)}"
            )
        found[name] = _read_value(name, text, hints[name])
    return found


def _read_value(name: str, text: str, hint: Any) -> Any:
    """Read a value as the first of its field's types that it is written like."""
    words = {"true": True, "false": False, "none": None}
    options = [hint] if get_origin(hint) is tuple else list(get_args(hint)) or [hint]
    options.sort(key=lambda option: option not in (bool, NoneType))  # before any text is a str
    for option in options:
        try:
            if option in (bool, NoneType) and isinstance(words[text.lower()], option):
                return words[text.lower()]
            if option in (int, float, str):
                return option(text)
            if get_origin(option) is tuple:
                return tuple(get_args(option)[0](part) for part in text.split(","))
        except (KeyError, ValueError):
            continue
    kinds = " or ".join(getattr(o, "__name__", str(o)) for o in options if o is not NoneType)
    raise InputError(f"--set {name} must be of type {kinds}, got {text!r}")
