"""Choose the device to compute on."""

from __future__ import annotations

import re

import torch

from gprior.checks import InputError

__all__ = ["pick_device"]


def pick_device(name: str) -> torch.device:
    """Return the device of this name.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda"} or str
        ``"auto"`` is the GPU if there is one, and else the CPU. ``"cuda:1"`` is the second GPU.

    Returns
    -------
    torch.device
        The device.

    Raises
    ------
    InputError
        If the name is unknown, or is ``"cuda"`` and torch finds no usable CUDA GPU.

    Examples
    --------
    >>> pick_device("cpu")
    device(type='cpu')
    """
    if name not in ("auto", "cpu", "cuda") and not re.fullmatch(r"cuda:\d+", name):
        raise InputError(f"device must be auto, cpu or cuda, got {name!r}")
    has_gpu = torch.cuda.is_available()
    if name.startswith("cuda") and not has_gpu:
        raise InputError(
            "device cuda needs a CUDA GPU, but torch finds none that it can use; "
            "use --device cpu, or install a CUDA build of torch"
        )
    if name.startswith("cuda:"):
        return torch.device(name)
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")
