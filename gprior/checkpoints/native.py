"""The native checkpoint: one safetensors file with its architecture in the metadata.

Every shape is checked against the architecture while only the file's header has been
read; nothing is allocated for a file that lies about itself.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from gprior.checks import InputError, InputTypeError
from gprior.files import write_bytes
from gprior.priors import BigGAN, Discriminator, Prior, StyleGAN2, fold_, ready_

__all__ = ["ARCHITECTURES", "header", "is_native", "load_native", "save_native", "skeleton"]

FORMAT = "gprior-1"
UNIT = "perceptual_unit"  # of the discriminator

# A new one needs a row here: a prior whose ``config`` makes it again as ``kind(**config)``.
ARCHITECTURES: dict[str, type[BigGAN | StyleGAN2]] = {"BigGAN": BigGAN, "StyleGAN2": StyleGAN2}


def save_native(path: Path, prior: Prior) -> None:
    """Write a prior, its discriminator and its record, atomically.

    Parameters
    ----------
    path : Path
        The file, ending in ``.safetensors``.
    prior : Prior
        One of `ARCHITECTURES`. The file holds it, and its discriminator if any, with folded
        gains.

    Raises
    ------
    TypeError
        If the prior is of another kind.
    OSError
        If the file cannot be written; what was there before stays.
    """
    kind = type(prior).__name__
    if not isinstance(prior, tuple(ARCHITECTURES.values())):
        raise InputTypeError(
            f"prior must be a {' or '.join(ARCHITECTURES)}, got {kind}; save its base and adapt "
            "it again after loading, or save a module of your own yourself"
        )
    meta: dict[str, Any] = {"architecture": kind, "generator": prior.config}
    if prior.discriminator is not None:
        meta["discriminator"] = prior.discriminator.config
    meta |= {"record": prior.record, "statistics": prior.statistics}
    metadata = {"format": FORMAT, "gprior": json.dumps(meta)}
    folded = copy.deepcopy(prior).cpu()
    fold_(folded)
    tensors = {k: v.contiguous() for k, v in folded.state_dict().items()}
    write_bytes(path, save(tensors, metadata), "the prior")


def header(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Return the metadata and the shapes of a native checkpoint, without reading tensors.

    Raises
    ------
    ValueError
        If the file is no native checkpoint, is cut short, or its shapes are not those
        of the architecture that it names.
    """
    if not looks_native(path):
        raise InputError(
            f"{path} is not a checkpoint that gprior reads: its native format is .safetensors, "
            "as `gprior train` and gprior.checkpoints.save_prior write it"
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            shapes = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
            kinds = {file.get_slice(k).get_dtype() for k in shapes}
    except SafetensorError as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}); copy or download it again"
        ) from error
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{path} is a safetensors file, but not a gprior checkpoint (format "
            f"{metadata.get('format')!r}, expected {FORMAT!r})"
        )
    try:
        meta = json.loads(metadata["gprior"])
        expected = {k: tuple(v.shape) for k, v in skeleton(meta).state_dict().items()}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path} names no valid architecture in its metadata: {error}") from error
    for name in sorted(expected.keys() | shapes.keys()):
        if expected.get(name) != shapes.get(name):
            raise InputError(
                f"{path}: tensor {name} should have shape {expected.get(name, 'none')} for the "
                f"architecture in the metadata, the file has {shapes.get(name, 'none')}"
            )
    if kinds not in ({"F32"}, {"F64"}):
        raise InputError(
            f"{path} holds {sorted(kinds)} tensors; all float32 or all float64 is expected"
        )
    return meta, shapes


def skeleton(meta: dict[str, Any]) -> BigGAN | StyleGAN2:
    """Return the networks that the metadata names, on the meta device: shapes without memory.

    Raises
    ------
    ValueError, KeyError or TypeError
        If it names no valid architecture.
    """
    name = meta["architecture"]
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise InputError(f"architecture must be one of {list(ARCHITECTURES)}, got {name!r}")
    with torch.device("meta"):
        prior = ARCHITECTURES[name](**meta["generator"])
        if "discriminator" in meta:
            prior.discriminator = Discriminator(**meta["discriminator"])
            side, C = (meta["discriminator"][k] for k in ("img_resolution", "img_channels"))
            if prior.image_shape != (C, side, side):
                raise InputError(
                    f"the discriminator is of other images than the generator: {C}x{side}x{side}"
                )
    for key in ("record", "statistics"):
        if not isinstance(meta.get(key, {}), dict):
            raise InputError(f"{key} must be a dictionary, got {meta[key]!r}")
    return prior


def load_native(path: Path) -> BigGAN | StyleGAN2:
    """Load a native checkpoint, frozen; raises as `header` does."""
    meta, shapes = header(path)
    prior = skeleton(meta)
    with safe_open(path, "pt") as file:
        prior.load_state_dict({k: file.get_tensor(k) for k in shapes}, assign=True)
    ready_(prior)
    record = dict(meta.get("record", {}))
    # Files of gprior 0.1 have one statistic, in the record.
    numbers = {UNIT: record.pop(UNIT, None), **meta.get("statistics", {})}
    prior.record = {**record, "sha256": digest(path)}
    prior.freeze()
    prior.statistics = {
        name: value
        for name, value in numbers.items()
        if isinstance(value, float) and math.isfinite(value)
    }
    return prior


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def is_native(path: Path) -> bool:
    """Whether a file is in the native format, be it damaged, and not somebody else's."""
    if path.is_dir() or not looks_native(path):
        return False
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except SafetensorError:
        return True  # `header` says what is wrong with it


def looks_native(path: Path) -> bool:
    """Whether a file begins as a safetensors file does: a length, then a JSON object."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] < 1 << 27
