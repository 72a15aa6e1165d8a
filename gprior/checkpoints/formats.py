"""Which checkpoint a file is, by what it holds, and the prior that it makes.

Nothing here depends on a file's name: NVIDIA's ``.pkl`` called ``.pt`` is still NVIDIA's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from gprior.checkpoints.biggan import from_biggan_pytorch, from_huggingface
from gprior.checkpoints.containers import open_file, read_checkpoint
from gprior.checkpoints.inert import Node, Stored, tensors_of
from gprior.checkpoints.native import digest
from gprior.checkpoints.nvlabs import from_nvlabs, is_network
from gprior.checkpoints.nvlabs_tf import from_tensorflow
from gprior.checkpoints.rosinality import from_rosinality
from gprior.checks import InputError
from gprior.priors import Prior

__all__ = ["load"]

CONFIG = 1 << 20  # bytes of a config.json
NVIDIA = (
    "not in the file; NVIDIA's published networks are for non-commercial use (Nvidia Source Code "
    "License-NC), others are their trainer's"
)
UNKNOWN = "not in the file; ask whoever trained or published it"
BIGGAN = "not in the file; the published BigGAN weights come with their repositories' terms"
NEXT = "load it with its authors' code and wrap it in a gprior.priors.Generator"
# Names that tell a look-alike, first match first: what it is, and what to do.
OTHERS = {
    "synthesis.b4.const": (
        "a bare state dict of NVIDIA's StyleGAN2, which does not say its activation bounds; give "
        "the .pkl that it was taken from"
    ),
    "synthesis.initial_conv1.adain.style_scale.weight": (
        "an AdaIN generator in the manner of StyleGAN 1 (as hajar001/stylegan2-ffhq-128), which "
        f"is not StyleGAN2; {NEXT}"
    ),
    "generator.progression.0.conv.0.conv.weight_orig": f"StyleGAN 1, not StyleGAN2; {NEXT}",
    "synthesis.input.freqs": f"StyleGAN3, not StyleGAN2; {NEXT}",
    "final_conv.0.weight": "a discriminator alone; give the file that holds the generator (g_ema)",
    "b4.out.weight": "a discriminator alone; give the file that holds the generator (G_ema)",
    "blocks.0.0.conv1.weight": "a part of BigGAN without its class embedding",
    "input_layer.0.weight": "an encoder alone; give the whole file, with decoder.*",
}


def load(path: Path) -> Prior:
    """Load a checkpoint that others trained.

    Parameters
    ----------
    path : Path
        A file, or a folder with ``config.json`` and the weights of a BigGAN-deep.

    Returns
    -------
    Prior
        Frozen, in float32. Its record has ``origin``, ``source`` (the file's name),
        ``source_sha256`` and ``licence``.

    Raises
    ------
    ValueError
        If it is none of the known kinds, or damaged, or hostile; the message names the file,
        what it is, and the next step.
    OSError
        If it cannot be opened.
    """
    try:
        weights = _weights_of(path)
        prior, origin, licence = _recognise(weights, read_checkpoint(weights))
    except ValueError as error:
        raise InputError(f"{path} cannot be read as a prior: {error}") from error
    sha = digest(weights)
    record = {"origin": origin, "source": weights.name, "source_sha256": sha, "licence": licence}
    prior.record = {**record, **prior.record, "sha256": sha}
    return prior


def _weights_of(path: Path) -> Path:
    """Return the file of the weights: of a folder, or beside a config.json, it has a fixed name."""
    if not path.is_dir() and path.name != "config.json":
        return path
    folder = path if path.is_dir() else path.parent
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return folder / name
    raise InputError("the folder has neither model.safetensors nor pytorch_model.bin")


def _recognise(path: Path, tree: Any) -> tuple[Prior, str, str]:
    """Return the prior, its origin and a note on its licence."""
    most = path.stat().st_size
    if isinstance(tree, dict) and is_network(tree.get("G_ema")):
        tree = tree["G_ema"]
    if is_network(tree):
        return from_nvlabs(tree, most), "StyleGAN2 of NVIDIA (PyTorch)", NVIDIA
    if isinstance(tree, tuple) and len(tree) == 3:
        tree = tree[2]
    if isinstance(tree, Node) and tree.kind == "Network":
        return from_tensorflow(tree, most), "StyleGAN2 of NVIDIA (TensorFlow)", NVIDIA
    if not isinstance(tree, dict):
        raise InputError(f"it holds a {type(tree).__name__}, not the state of a generator")
    if any(is_network(found) for found in tree.values()):
        raise InputError("it has networks of NVIDIA, but no G_ema; give a file that has it")
    mean = tree.get("latent_avg")
    latent_avg = tensors_of({"latent_avg": mean}, most).get("latent_avg")
    if isinstance(tree.get("g_ema"), dict):
        prior: Prior = from_rosinality(tensors_of(_flat(tree["g_ema"]), most), latent_avg)
        return prior, "StyleGAN2 of rosinality/stylegan2-pytorch", UNKNOWN
    state = _flat(tree["state_dict"] if isinstance(tree.get("state_dict"), dict) else tree)
    state.pop("latent_avg", None)
    decoder = {k.removeprefix("decoder."): v for k, v in state.items() if k.startswith("decoder.")}
    if "convs.0.conv.weight" in decoder:
        prior = from_rosinality(tensors_of(decoder, most), latent_avg)
        return prior, "StyleGAN2 decoder of pSp or e4e", UNKNOWN
    if {"convs.0.conv.weight", "style.1.weight"} <= state.keys():
        prior = from_rosinality(tensors_of(state, most), latent_avg)
        return prior, "StyleGAN2 of rosinality/stylegan2-pytorch", UNKNOWN
    if "generator.gen_z.weight_orig" in state:
        return _huggingface(path, tensors_of(state, most)), "BigGAN-deep of Hugging Face", BIGGAN
    if {"shared.weight", "linear.weight", "blocks.0.0.conv1.weight"} <= state.keys():
        return from_biggan_pytorch(tensors_of(state, most)), "BigGAN-PyTorch", BIGGAN
    raise InputError(f"it is {_other(tree, state)}")


def _flat(tree: dict[Any, Any]) -> dict[str, Stored]:
    """Return the tensors of a state dict, without the prefix of data-parallel training."""
    return {
        k.removeprefix("module."): v
        for k, v in tree.items()
        if isinstance(k, str) and isinstance(v, Stored)
    }


def _other(tree: dict[Any, Any], state: dict[str, Stored]) -> str:
    """Return what a state dict that is not read here is, and the next step."""
    for name, what in OTHERS.items():
        if name in state:
            return what
    if "d" in tree or "D" in tree:
        return "a checkpoint without an averaged generator (g_ema, G_ema); give a file that has it"
    shown = ", ".join(repr(str(k)[:40]) for k in list(tree)[:4])
    return (
        "not a generator that gprior knows (StyleGAN2 of rosinality, NVIDIA, pSp and e4e, BigGAN); "
        f"it holds {shown or 'nothing'}; {NEXT}"
    )


def _huggingface(path: Path, tensors: dict[str, Tensor]) -> Prior:
    """Return the BigGAN-deep of a folder; its config.json has what shapes do not say."""
    where = path.parent / "config.json"
    if not where.exists():
        raise InputError(
            "it is a BigGAN-deep of Hugging Face, whose config.json has to lie beside it"
        )
    text = open_file(where)
    try:
        config = json.loads(bytes(text[:CONFIG]))
    except (ValueError, RecursionError) as error:
        raise InputError("its config.json is no JSON object of at most a megabyte") from error
    if not isinstance(config, dict):
        raise InputError("its config.json is no JSON object")
    return from_huggingface(config, tensors)
