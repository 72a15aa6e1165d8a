"""What ``gprior info`` shows: a checkpoint described from its header."""

from __future__ import annotations

import json

import torch

from gprior.priors import find
from gprior.priors.native import digest, header
from gprior.priors.stylegan2 import StyleGAN2

__all__ = ["describe"]


def describe(path_or_name: str) -> str:
    """Describe a prior without reading its tensors.

    Parameters
    ----------
    path_or_name : str
        A checkpoint, or the name of an embedded prior.

    Returns
    -------
    str
        Architecture, image shape, parameters, classes, size, SHA-256 and origin, a line each.

    Raises
    ------
    FileNotFoundError
        If there is no such file or name; the message lists the names.
    ValueError
        If the file is truncated or no checkpoint.

    Examples
    --------
    >>> print(describe("phantom-64").splitlines()[1])
    images        1 x 64 x 64, in [0, 1]
    """
    path = find(path_or_name)
    meta, _ = header(path)
    with torch.device("meta"):  # shapes without memory
        generator = StyleGAN2(**meta["generator"])
    record = meta.get("record", {})
    C, H, W = generator.image_shape
    count = sum(p.numel() for p in generator.parameters())
    names = record.get("classes") or [f"{generator.c_dim} without names"] * bool(generator.c_dim)
    critic = "yes, by its discriminator" if "discriminator" in meta else "no"
    lines = {
        "architecture": f"{meta['architecture']}, z {generator.z_dim}, w {generator.num_ws} x "
        f"{generator.config['w_dim']}",
        "images": f"{C} x {H} x {W}, in [0, 1]",
        "parameters": f"{count:,} in the generator",
        "classes": ", ".join(f"{k} {name}" for k, name in enumerate(names)) or "none",
        "perceptual": critic,
        "file": str(path),
        "size": f"{path.stat().st_size / 1e6:.1f} MB",
        "sha256": digest(path),
    }
    origin = {k: v for k, v in record.items() if k != "classes"}
    lines |= {k: v if isinstance(v, str) else json.dumps(v) for k, v in origin.items()}
    return "\n".join(f"{name.replace('_', ' '):<13} {value}" for name, value in lines.items())
