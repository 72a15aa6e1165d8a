"""Parse the arguments of the command line: constants, intensities, files of plain arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from gprior.checks import InputError, InputTypeError
from gprior.measurements import read_npy, read_npz
from gprior.solvers import SOLVERS

__all__ = [
    "constant_names",
    "parse_constants",
    "parse_intensity",
    "read_measurements",
]


def read_measurements(path: Path) -> Tensor:
    """Read measurements. Code inside a file never runs.

    Parameters
    ----------
    path : Path
        A ``.npy`` file, or a ``.npz``, ``.pt`` or ``.safetensors`` file that has one array, or
        an array named ``y``.

    Returns
    -------
    Tensor
        The measurements, float32.

    Raises
    ------
    InputError
        If the file has another format, is damaged, or does not have one array of real numbers.
    OSError
        If the file cannot be opened.
    """
    readers = {".npy": read_npy, ".npz": read_npz, ".pt": _read_pt, ".safetensors": _read_st}
    if path.suffix not in readers:
        raise InputError(
            f"measurements must be a file of type {', '.join(readers)}, got {path}; "
            "to measure an image, add --simulate"
        )
    with path.open("rb"):  # raises the usual error if the file cannot be opened
        pass
    values = torch.as_tensor(_only(path, readers[path.suffix](path)))
    if values.is_complex():
        raise InputError(f"{path} has complex numbers, but the operators here give real ones")
    return values.float()


def _read_pt(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zipfile and torch have errors of their own
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


def _only(path: Path, content: Any) -> Any:
    """Return the array of a file: its content, the array named y, or its only array."""
    if isinstance(content, dict):
        names = sorted(map(str, content))
        if "y" not in content and len(content) != 1:
            raise InputError(f"{path} must have one array, or one named 'y'; it has {names}")
        content = content["y"] if "y" in content else next(iter(content.values()))
    if not isinstance(content, Tensor | np.ndarray):
        raise InputError(f"{path} must have an array of numbers, got {type(content).__name__}")
    if isinstance(content, np.ndarray) and content.dtype.kind not in "buifc":
        raise InputError(f"{path} must have numbers, got {content.dtype}")
    return content


def parse_intensity(text: str | None) -> tuple[float, float] | Literal["percentile"] | None:
    """Return the argument `intensity` of `gprior.images.to_unit`.

    Parameters
    ----------
    text : str or None
        Two numbers with a comma between them, or ``"percentile"``; None stays None.

    Raises
    ------
    InputError
        If the text is neither.

    Examples
    --------
    >>> parse_intensity("-160,240")
    (-160.0, 240.0)
    """
    if text is None:
        return None
    if text == "percentile":
        return "percentile"
    try:
        lo, hi = map(float, text.split(","))
    except ValueError as error:
        raise InputError(
            f"intensity must be LO,HI, such as -160,240, or percentile, got {text!r}"
        ) from error
    return lo, hi


def constant_names() -> set[str]:
    """Return the names of the constants of all methods."""
    return {field.name for solver in SOLVERS.values() for field in fields(solver)}


def parse_constants(solver: str, pairs: Iterable[str]) -> dict[str, Any]:
    """Parse constants of a solver, each as the type of its field.

    Parameters
    ----------
    solver : str
        A name in `gprior.solvers.SOLVERS`.
    pairs : iterable of str
        ``NAME=VALUE``. The values of a tuple have commas between them: ``betas=0.9,0.99``.

    Returns
    -------
    dict
        Value by name.

    Raises
    ------
    InputError
        If the solver is unknown, or a pair or value cannot be parsed.
    InputTypeError
        If the solver has no such constant. The message lists its constants.

    Examples
    --------
    >>> parse_constants("lbrgm", ["lr=0.05", "init=best-of:20", "betas=0.9,0.99"])
    {'lr': 0.05, 'init': 'best-of:20', 'betas': (0.9, 0.99)}
    """
    if solver not in SOLVERS:
        raise InputError(f"solver {solver!r} is unknown; solvers are {sorted(SOLVERS)}")
    valid = [field.name for field in fields(SOLVERS[solver])]
    hints, constants = get_type_hints(SOLVERS[solver]), {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--set must be NAME=VALUE, got {pair!r}")
        if name not in valid:
            raise InputTypeError(
                f"{solver} has no constant {name!r}; its constants are {sorted(valid)}"
            )
        constants[name] = _read_value(name, text, hints[name])
    return constants


def _read_value(name: str, text: str, hint: Any) -> Any:
    """Parse a value as the first type of its field that the text has the form of."""
    words = {"true": True, "false": False, "none": None}
    options = [hint] if get_origin(hint) is tuple else list(get_args(hint)) or [hint]
    options.sort(
        key=lambda option: option not in (bool, NoneType)
    )  # first, because any text is a str
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
