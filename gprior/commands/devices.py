"""Where to compute."""

from __future__ import annotations

import torch

from gprior.checks import InputError

__all__ = ["pick_device"]


def pick_device(name: str) -> torch.device:
    """Return the device of this name.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda"}
        ``"auto"`` takes the GPU where there is one.

    Raises
    ------
    ValueError
        If the name is unknown, or CUDA is asked for where there is none.

    Examples
    --------
    >>> pick_device("cpu")
    device(type='cpu')
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device must be auto, cpu or cuda, got {name!r}")
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise InputError(
            "device cuda was asked for, but torch finds no usable CUDA GPU here; "
            "use --device cpu, or install a CUDA build of torch"
        )
    return torch.device("cuda" if found and name != "cpu" else "cpu")
