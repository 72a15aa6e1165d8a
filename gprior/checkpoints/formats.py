"""Recognises published checkpoints and makes priors of them.

`load` detects from the content of a file which project wrote it, and calls the reader of that
project's layout. The name of the file has no influence: NVIDIA's ``.pkl`` may be called ``.pt``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from gprior.checkpoints.biggan import from_biggan_pytorch, from_huggingface
from gprior.checkpoints.containers import open_file, read_data
from gprior.checkpoints.inert import Node, StoredTensor, tensors_of
from gprior.checkpoints.native import digest
from gprior.checkpoints.nvlabs import from_nvlabs, is_network
from gprior.checkpoints.nvlabs_tf import from_tensorflow
from gprior.checkpoints.rosinality import from_rosinality
from gprior.checkpoints.tensors import REMEDY
from gprior.checks import InputError
from gprior.priors import Prior

__all__ = ["load"]

MAX_CONFIG = 1 << 20  # bytes of a config.json
NVIDIA = (
    "not in the file; NVIDIA's published networks are for non-commercial use (Nvidia Source Code "
    "License-NC), other networks belong to whoever trained them"
)
UNKNOWN = "not in the file; ask whoever trained or published it"
BIGGAN = "not in the file; the published BigGAN weights come with their repositories' terms"
# Networks that are not read: the name of a tensor that only they have, then what the file is and
# what to do. The first of them that a file has decides.
OTHER_NETWORKS = {
    "synthesis.b4.const": (
        "a bare state dict of NVIDIA's StyleGAN2, which does not contain its activation bounds; "
        "give the .pkl that it was taken from"
    ),
    "synthesis.initial_conv1.adain.style_scale.weight": (
        "an AdaIN generator similar to StyleGAN 1 (such as hajar001/stylegan2-ffhq-128), which "
        f"is not StyleGAN2; {REMEDY}"
    ),
    "generator.progression.0.conv.0.conv.weight_orig": f"StyleGAN 1, not StyleGAN2; {REMEDY}",
    "synthesis.input.freqs": f"StyleGAN3, not StyleGAN2; {REMEDY}",
    "final_conv.0.weight": "a discriminator alone; give the file that holds the generator (g_ema)",
    "b4.out.weight": "a discriminator alone; give the file that holds the generator (G_ema)",
    "blocks.0.0.conv1.weight": "a part of BigGAN without its class embedding; give the whole file",
    "input_layer.0.weight": "an encoder alone; give the whole file, with decoder.*",
}


def load(path: str | Path) -> Prior:
    """Load a published checkpoint of StyleGAN2 or BigGAN.

    Parameters
    ----------
    path : str or Path
        A file, or a folder with ``config.json`` and the weights of a BigGAN-deep.

    Returns
    -------
    Prior
        Frozen, in float32. Its record has ``origin``, ``source`` (the file's name),
        ``source_sha256`` and ``licence``.

    Raises
    ------
    InputError
        If the file is of another kind, damaged, or made to harm. The message names the file, what
        it is, and what to do.
    OSError
        If the file cannot be opened.
    """
    try:
        weights = _weights_of(Path(path))
        prior, origin, licence = _recognise(weights, read_data(weights))
    except ValueError as error:
        raise InputError(f"{path} cannot be read as a prior: {error}") from error
    sha = digest(weights)
    record = {"origin": origin, "source": weights.name, "source_sha256": sha, "licence": licence}
    prior.record = {**record, **prior.record, "sha256": sha}
    return prior


def _weights_of(path: Path) -> Path:
    """Return the file of the weights, which has a fixed name in a folder with config.json."""
    if not path.is_dir() and path.name != "config.json":
        return path
    folder = path if path.is_dir() else path.parent
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return folder / name
    raise InputError("the folder has neither model.safetensors nor pytorch_model.bin")


def _recognise(path: Path, tree: Any) -> tuple[Prior, str, str]:
    """Return the prior in the data of a file, its origin and a note on its licence."""
    max_bytes = path.stat().st_size
    if isinstance(tree, dict) and is_network(tree.get("G_ema")):
        tree = tree["G_ema"]
    if is_network(tree):
        return from_nvlabs(tree, max_bytes), "StyleGAN2 of NVIDIA (PyTorch)", NVIDIA
    if isinstance(tree, tuple) and len(tree) == 3:
        tree = tree[2]
    if isinstance(tree, Node) and tree.kind == "Network":
        return from_tensorflow(tree, max_bytes), "StyleGAN2 of NVIDIA (TensorFlow)", NVIDIA
    if not isinstance(tree, dict):
        raise InputError(f"it holds a {type(tree).__name__}, not the state of a generator")
    if any(is_network(value) for value in tree.values()):
        raise InputError("it has networks of NVIDIA, but no G_ema; give a file that has it")

    def read(state: dict[Any, Any]) -> dict[str, Tensor]:
        return tensors_of(state, max_bytes)

    latent_avg = read({"latent_avg": tree.get("latent_avg")}).get("latent_avg")
    if isinstance(tree.get("g_ema"), dict):
        prior: Prior = from_rosinality(read(_state_dict(tree["g_ema"])), latent_avg)
        return prior, "StyleGAN2 of rosinality/stylegan2-pytorch", UNKNOWN
    state = _state_dict(tree["state_dict"] if isinstance(tree.get("state_dict"), dict) else tree)
    state.pop("latent_avg", None)
    decoder = {k.removeprefix("decoder."): v for k, v in state.items() if k.startswith("decoder.")}
    if "convs.0.conv.weight" in decoder:
        prior = from_rosinality(read(decoder), latent_avg)
        return prior, "StyleGAN2 decoder of pSp or e4e", UNKNOWN
    if {"convs.0.conv.weight", "style.1.weight"} <= state.keys():
        prior = from_rosinality(read(state), latent_avg)
        return prior, "StyleGAN2 of rosinality/stylegan2-pytorch", UNKNOWN
    if "generator.gen_z.weight_orig" in state:
        return _huggingface(path, read(state)), "BigGAN-deep of Hugging Face", BIGGAN
    if {"shared.weight", "linear.weight", "blocks.0.0.conv1.weight"} <= state.keys():
        return from_biggan_pytorch(read(state)), "BigGAN-PyTorch", BIGGAN
    raise InputError(f"it is {_described(tree, state)}")


def _state_dict(tree: dict[Any, Any]) -> dict[str, StoredTensor]:
    """Return the tensors of a dictionary, without the prefix ``module.`` of DataParallel."""
    return {
        k.removeprefix("module."): v
        for k, v in tree.items()
        if isinstance(k, str) and isinstance(v, StoredTensor)
    }


def _described(tree: dict[Any, Any], state: dict[str, StoredTensor]) -> str:
    """Return what a state dict is that cannot be read, and what to do."""
    for name, what in OTHER_NETWORKS.items():
        if name in state:
            return what
    if "d" in tree or "D" in tree:
        return "a checkpoint without an averaged generator (g_ema, G_ema); give a file that has it"
    names = ", ".join(repr(str(key)[:40]) for key in list(tree)[:4])
    return (
        "not a generator that gprior knows (StyleGAN2 of rosinality, NVIDIA, pSp and e4e, BigGAN); "
        f"it holds {names or 'nothing'}; {REMEDY}"
    )


def _huggingface(path: Path, tensors: dict[str, Tensor]) -> Prior:
    """Return the BigGAN-deep in a folder, whose config.json has what shapes do not show."""
    config_path = path.parent / "config.json"
    if not config_path.exists():
        raise InputError(
            "it is a BigGAN-deep of Hugging Face; put its config.json into the same folder"
        )
    problem = "its config.json is no JSON object of at most a megabyte; download it again"
    content = open_file(config_path)
    try:
        config = json.loads(bytes(content[:MAX_CONFIG]))
    except (ValueError, RecursionError) as error:
        raise InputError(problem) from error
    if not isinstance(config, dict):
        raise InputError(problem)
    return from_huggingface(config, tensors)
