"""What ``gprior info`` shows: a checkpoint described, from its header alone where it has one."""

from __future__ import annotations

import json

from gprior.checkpoints import digest, find, header, is_native, load_prior, skeleton
from gprior.priors import BigGAN, Prior, StyleGAN2

__all__ = ["describe"]


def describe(path_or_name: str) -> str:
    """Describe a prior; of a native checkpoint without reading its tensors.

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
        If the file is truncated or no checkpoint that is read.

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
    own = [p for name, p in prior.named_parameters() if not name.startswith("discriminator.")]
    names = ", ".join(f"{k} {name}" for k, name in enumerate(record.get("classes", ())))
    lines = {
        "architecture": _architecture(prior),
        "images": f"{C} x {H} x {W}, in [0, 1]",
        "parameters": f"{sum(p.numel() for p in own):,} in the generator",
        "classes": names or (f"{prior.c_dim} without names" if prior.c_dim else "none"),
        "perceptual": "no" if prior.discriminator is None else "yes, by its discriminator",
        "file": str(path),
        "size": f"{path.stat().st_size / 1e6:.1f} MB",
        "sha256": digest(path),
    }
    origin = {k: v for k, v in record.items() if k not in ("classes", "sha256")}
    lines |= {k: v if isinstance(v, str) else json.dumps(v) for k, v in origin.items()}
    return "\n".join(f"{name.replace('_', ' '):<13} {value}" for name, value in lines.items())


def _architecture(prior: Prior) -> str:
    if isinstance(prior, StyleGAN2):
        return f"StyleGAN2, z {prior.z_dim}, w {prior.num_ws} x {prior.w_dim}"
    if isinstance(prior, BigGAN):
        kind = "BigGAN-deep" if prior.deep else "BigGAN"
        return f"{kind}, z {prior.z_dim}, class embedding {prior.embed_dim}"
    return type(prior).__name__
