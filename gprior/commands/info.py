"""``gprior info``: the description of a checkpoint."""

from __future__ import annotations

import json

from gprior.checkpoints import digest, find, header, is_native, load_prior, skeleton
from gprior.priors import Prior

__all__ = ["describe"]


def describe(path_or_name: str) -> str:
    """Describe a prior. Of a native checkpoint only the header is read, and no tensor.

    Parameters
    ----------
    path_or_name : str
        A checkpoint, or the name of an embedded prior.

    Returns
    -------
    str
        Architecture, image shape, parameters, classes, size, SHA-256 and origin, one per line.

    Raises
    ------
    FileNotFoundError
        If there is no such file or name; the message lists the names.
    ValueError
        If the file is truncated, or is not a checkpoint that gprior reads.

    Examples
    --------
    >>> print(describe("phantom-64").splitlines()[1])
    images        1 x 64 x 64, in [0, 1]
    """
    path = find(path_or_name)
    if is_native(path):
        meta, _ = header(path)
        prior: Prior = skeleton(meta)
        record = meta.get("record", {})
    else:
        prior = load_prior(path)
        record = prior.record
        path = path / record["source"] if path.is_dir() else path
    C, H, W = prior.image_shape
    weights = [p for name, p in prior.named_parameters() if not name.startswith("discriminator.")]
    names = ", ".join(f"{k} {name}" for k, name in enumerate(record.get("classes", ())))
    lines = {
        "architecture": prior.describe(),
        "images": f"{C} x {H} x {W}, in [0, 1]",
        "parameters": f"{sum(p.numel() for p in weights):,} in the generator",
        "classes": names or (f"{prior.c_dim} without names" if prior.c_dim else "none"),
        "perceptual": "no" if prior.discriminator is None else "yes, by its discriminator",
        "file": str(path),
        "size": f"{path.stat().st_size / 1e6:.1f} MB",
        "sha256": digest(path),
    }
    origin = {k: v for k, v in record.items() if k not in ("classes", "sha256")}
    lines |= {k: v if isinstance(v, str) else json.dumps(v) for k, v in origin.items()}
    return "\n".join(f"{name.replace('_', ' '):<13} {value}" for name, value in lines.items())
