"""The native checkpoint: one safetensors file with the architecture in its metadata.

Before any tensor is read, all shapes in the file's header are compared with those of the
architecture. So a file whose metadata are wrong never makes the reader allocate memory.
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

# Every prior with a native file has a row here: ``kind(**prior.config)`` builds it again.
ARCHITECTURES: dict[str, type[BigGAN | StyleGAN2]] = {"BigGAN": BigGAN, "StyleGAN2": StyleGAN2}


def save_native(path: Path, prior: Prior) -> None:
    """Write a prior, its discriminator, its record and its statistics to a file.

    The file is replaced at once, and only when it is complete.

    Parameters
    ----------
    path : Path
        The file, ending in ``.safetensors``.
    prior : Prior
        One of `ARCHITECTURES`. Its weights, and those of its discriminator if it has one, are
        written with folded gains. Of its statistics, those that are known at present and are
        numbers are written, see `Prior.statistics`.

    Raises
    ------
    TypeError
        If the prior is of another kind.
    OSError
        If the file cannot be written; an older file then stays as it was.
    """
    kind = type(prior).__name__
    if not isinstance(prior, tuple(ARCHITECTURES.values())):
        raise InputTypeError(
            f"prior must be a {' or '.join(ARCHITECTURES)}, got {kind}; save the base of an "
            "adapted prior and adapt it again after loading, or save your own module with torch"
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
        If the file is not a native checkpoint, is cut short, or has other shapes than the
        architecture that it names.
    """
    if not looks_native(path):
        raise InputError(
            f"{path} is not a checkpoint that gprior reads; its native format is the .safetensors "
            "file that `gprior train` and gprior.checkpoints.save_prior write"
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
            f"{path} is a safetensors file, but not a gprior checkpoint: its format is "
            f"{metadata.get('format')!r} and must be {FORMAT!r}"
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
            f"{path} holds tensors of {sorted(kinds)}; they must all be float32 or all float64"
        )
    return meta, shapes


def skeleton(meta: dict[str, Any]) -> BigGAN | StyleGAN2:
    """Return the networks that the metadata describe, without memory, on the meta device.

    Raises
    ------
    ValueError, KeyError or TypeError
        If they describe no valid architecture.
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
                    f"the discriminator takes images of {C}x{side}x{side}, and the generator makes "
                    f"{'x'.join(map(str, prior.image_shape))}"
                )
    for key in ("record", "statistics"):
        if not isinstance(meta.get(key, {}), dict):
            raise InputError(f"{key} must be a dictionary, got {meta[key]!r}")
    return prior


def load_native(path: Path) -> BigGAN | StyleGAN2:
    """Load a native checkpoint and freeze it; the errors are those of `header`."""
    meta, shapes = header(path)
    prior = skeleton(meta)
    with safe_open(path, "pt") as file:
        prior.load_state_dict({k: file.get_tensor(k) for k in shapes}, assign=True)
    ready_(prior)
    record = dict(meta.get("record", {}))
    # Older files have one statistic, in the record.
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
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def is_native(path: Path) -> bool:
    """Return whether a file is in gprior's format. A damaged safetensors file counts, too."""
    if path.is_dir() or not looks_native(path):
        return False
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except SafetensorError:
        return True  # `header` says what is wrong with it


def looks_native(path: Path) -> bool:
    """Return whether a file starts like a safetensors file: a length, then a JSON object."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] < 1 << 27
