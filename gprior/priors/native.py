"""The native checkpoint: one safetensors file with its architecture in the metadata.

Every shape is checked against the architecture while only the file's header has been
read; nothing is allocated for a file that lies about itself.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from gprior.files import atomic_write
from gprior.priors.discriminator import Discriminator
from gprior.priors.layers import ready_
from gprior.priors.stylegan2 import StyleGAN2

__all__ = ["header", "load_native", "save_native"]

FORMAT = "gprior-1"


def save_native(path: Path, prior: StyleGAN2) -> None:
    """Write a prior, its discriminator and its record, atomically.

    Parameters
    ----------
    path : Path
        The file, ending in ``.safetensors``.
    prior : StyleGAN2
        With folded gains; so is its discriminator, if any.
    """
    meta: dict[str, Any] = {"architecture": "StyleGAN2", "generator": prior.config}
    if prior.discriminator is not None:
        meta["discriminator"] = prior.discriminator.config
    metadata = {"format": FORMAT, "gprior": json.dumps({**meta, "record": prior.record})}
    tensors = {k: v.cpu().contiguous() for k, v in prior.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata)


def header(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Return the metadata and the shapes of a native checkpoint, without reading tensors.

    Raises
    ------
    ValueError
        If the file is no native checkpoint, is cut short, or its shapes are not those
        of the architecture that it names.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            shapes = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
            kinds = {file.get_slice(k).get_dtype() for k in shapes}
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); copy or download it again"
        ) from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} is a safetensors file, but not a gprior checkpoint (format "
            f"{metadata.get('format')!r}, expected {FORMAT!r})"
        )
    try:
        meta = json.loads(metadata["gprior"])
        expected = {k: tuple(v.shape) for k, v in _skeleton(meta).state_dict().items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} names no valid architecture in its metadata: {error}") from error
    for name in sorted(expected.keys() | shapes.keys()):
        if expected.get(name) != shapes.get(name):
            raise ValueError(
                f"{path}: tensor {name} should have shape {expected.get(name, 'none')} for the "
                f"architecture in the metadata, the file has {shapes.get(name, 'none')}"
            )
    if kinds - {"F32", "F64"}:
        raise ValueError(f"{path} holds {sorted(kinds)} tensors; float32 or float64 is expected")
    return meta, shapes


def _skeleton(meta: dict[str, Any]) -> StyleGAN2:
    """Return the networks on the meta device: shapes without memory."""
    if meta["architecture"] != "StyleGAN2":
        raise ValueError(f"architecture must be StyleGAN2, got {meta['architecture']!r}")
    with torch.device("meta"):
        prior = StyleGAN2(**meta["generator"])
        if "discriminator" in meta:
            prior.discriminator = Discriminator(**meta["discriminator"])
    return prior


def load_native(path: Path) -> StyleGAN2:
    """Load a native checkpoint, frozen; raises as `header` does."""
    meta, shapes = header(path)
    prior = _skeleton(meta)
    with safe_open(path, "pt") as file:
        prior.load_state_dict({k: file.get_tensor(k) for k in shapes}, assign=True)
    ready_(prior)
    prior.record = {**meta.get("record", {}), "sha256": digest(path)}
    prior.freeze()
    return prior


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def looks_native(path: Path) -> bool:
    """Whether a file begins as a safetensors file does: a length, then a JSON object."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] < 1 << 27
