"""StyleGAN2 networks of NVIDIA's TensorFlow repositories (stylegan2, stylegan2-ada).

A file holds Python code beside the variables; it is not run. Convolutions are stored HWIO and
used times 1/sqrt(fan-in), demodulation included; those that upsample are stored flipped; 1 is
added to the bias of a modulation.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gprior.checkpoints.inert import Node, Stored, tensors_of
from gprior.checkpoints.weights import State, Weights, assemble, dense, root, styled, torgb
from gprior.priors.stylegan2 import StyleGAN2

__all__ = ["from_tensorflow"]

MOST = 4096  # variables
# Options that change the network, with the values that `StyleGAN2` is.
OPTIONS: dict[str, tuple[Any, ...]] = {
    "architecture": ("skip",),
    "nonlinearity": ("lrelu",),
    "act": ("lrelu",),
    "mapping_nonlinearity": ("lrelu",),
    "normalize_latents": (True,),
    "resample_kernel": ([1, 3, 3, 1], (1, 3, 3, 1)),
    "fused_modconv": (True, False),
}


def from_tensorflow(network: Node, most: int) -> StyleGAN2:
    """Return the generator of a ``dnnlib.tflib.network.Network``.

    Parameters
    ----------
    network : Node
        ``Gs``, the last of the three in a file.
    most : int
        Bytes that its tensors may need together: those of the file.

    Raises
    ------
    ValueError
        If it is another network, or has options that `StyleGAN2` has not.
    """
    options: dict[str, Any] = {}
    stored: dict[str, Any] = {}
    for prefix, state in _networks(network):
        given = state.get("static_kwargs")
        for name, value in given.items() if isinstance(given, dict) else ():
            if name in OPTIONS and _plain(value) not in OPTIONS[name]:
                raise ValueError(f"its option {name} is one that StyleGAN2 is not read with")
            options[name] = value
        variables = state.get("variables")
        if not isinstance(variables, list) or len(variables) + len(stored) > MOST:
            raise ValueError("a network in it has no list of variables")
        for pair in variables:
            if (
                not isinstance(pair, (tuple, list))
                or len(pair) != 2
                or not isinstance(pair[0], str)
            ):
                raise ValueError("a network in it has a variable without a name")
            stored[f"{prefix}{pair[0][:80]}"] = pair[1]
    tensors = tensors_of({k: v for k, v in stored.items() if isinstance(v, Stored)}, most)
    numbers = {k: v for k, v in stored.items() if isinstance(v, float) and math.isfinite(v)}
    tensors |= {k: torch.tensor(v) for k, v in numbers.items()}
    if any("StyleMod" in name for name in tensors):
        raise ValueError("it is StyleGAN 1, which is not StyleGAN2; it is not read")
    if "mapping/LabelConcat/weight" in tensors:
        raise ValueError("its labels are joined without normalisation, as is not read")
    if "synthesis/4x4/Const/const" not in tensors:
        raise ValueError("it is a discriminator, or no StyleGAN2 generator; give (G, D, Gs)")
    return _build(Weights(tensors, "NVIDIA (TensorFlow)"), options)


def _plain(value: Any) -> Any:
    """Return a value that is safe to compare."""
    if isinstance(value, (list, tuple)) and len(value) <= 8:
        return [v if isinstance(v, (int, float)) else None for v in value]
    return value if isinstance(value, (str, int, float)) else None


def _networks(network: Node) -> list[tuple[str, dict[str, Any]]]:
    """Return the states of a network and of its components, with their prefixes."""
    found = []
    parts: list[tuple[str, Any]] = [("", network)]
    if isinstance(network.state, dict) and isinstance(network.state.get("components"), dict):
        components = network.state["components"]
        parts += [(f"{name}/", components.get(name)) for name in ("mapping", "synthesis")]
    for prefix, part in parts:
        if part is None:
            continue
        state = part.state if isinstance(part, Node) and part.kind == "Network" else None
        version = state.get("version") if isinstance(state, dict) else None
        if not isinstance(state, dict) or not isinstance(version, int) or version < 4:
            raise ValueError("a network in it is older than version 4, or none")
        found.append((prefix, state))
    return found


def _build(read: Weights, options: dict[str, Any]) -> StyleGAN2:
    log2 = read.count(r"synthesis/\d+x\d+/ToRGB/weight") + 1
    layers = read.count(r"mapping/Dense\d+/weight")
    names = [f"synthesis/{4 << k}x{4 << k}" for k in range(log2 - 1)]
    widths = [
        read.shape(f"{n}/{'Conv1' if k else 'Conv'}/weight", 4)[3] for k, n in enumerate(names)
    ]
    n_first = read.shape("mapping/Dense0/weight", 2)[0]
    w_dim = read.shape(f"mapping/Dense{layers - 1}/weight", 2)[1]
    embed = "mapping/LabelEmbed/weight"
    c_dim = read.shape(embed, 2)[0] if embed in read else 0
    use_noise = "synthesis/noise0" in read
    config: dict[str, Any] = {
        "img_resolution": 1 << log2,
        "img_channels": read.shape(f"{names[0]}/ToRGB/weight", 4)[3],
        "z_dim": n_first - (w_dim if c_dim else 0),
        "w_dim": w_dim,
        "c_dim": c_dim,
        "num_mapping_layers": layers,
        "conv_clamp": _number(options, "conv_clamp", None),
        "use_noise": use_noise,
        "widths": widths,
    }
    lr = _number(options, "mapping_lrmul", 0.01)
    state: State = {"const": read(f"{names[0]}/Const/const", 1, widths[0], 4, 4)}
    for i in range(layers):
        n_in = w_dim if i else n_first
        weight = read(f"mapping/Dense{i}/weight", n_in, w_dim).t()
        bias = read(f"mapping/Dense{i}/bias", w_dim)
        dense(state, f"mapping_network.layers.{i}", weight, bias, lr * root(n_in), lr)
    if c_dim:
        state["mapping_network.embed.weight"] = read(embed, c_dim, w_dim).t() * root(c_dim)
        state["mapping_network.embed.bias"] = read("mapping/LabelEmbed/bias", w_dim)
    for k, (name, width) in enumerate(zip(names, widths, strict=True)):
        layers_of = {"conv0": "Conv0_up", "conv1": "Conv1"} if k else {"conv1": "Conv"}
        for ours, theirs in layers_of.items():
            path, n_in = f"{name}/{theirs}", widths[k - 1] if ours == "conv0" else width
            weight = read(f"{path}/weight", 3, 3, n_in, width).permute(3, 2, 0, 1) * root(n_in, 9)
            weight = weight.flip(2, 3) if ours == "conv0" else weight
            number, side = 2 * k - (ours == "conv0"), 4 << k
            const = read(f"synthesis/noise{number}", 1, 1, side, side) if use_noise else None
            noise = None if const is None else (read(f"{path}/noise_strength"), const)
            affine, bias = _affine(read, path, n_in, w_dim), read(f"{path}/bias", width)
            styled(state, f"blocks.{k}.{ours}", weight, affine, bias, noise)
        path, n = f"{name}/ToRGB", config["img_channels"]
        weight = read(f"{path}/weight", 1, 1, width, n).permute(3, 2, 0, 1) * root(width)
        affine, bias = _affine(read, path, width, w_dim), read(f"{path}/bias", n)
        torgb(state, f"blocks.{k}", weight, affine, bias)
    w_avg = read("dlatent_avg", w_dim)
    for training in ("lod", "synthesis/lod"):
        read.left.pop(training, None)
    read.close()
    return assemble(config, state, w_avg.expand(c_dim, w_dim) if c_dim else w_avg)


def _number(options: dict[str, Any], name: str, default: Any) -> Any:
    value = options.get(name, default)
    if value is not None and (not isinstance(value, (int, float)) or not 0 < value < 1e6):
        raise ValueError(f"its option {name} should be a positive number")
    return value


def _affine(read: Weights, path: str, n_out: int, w_dim: int) -> tuple[Tensor, Tensor]:
    weight = read(f"{path}/mod_weight", w_dim, n_out).t() * root(w_dim)
    return weight, read(f"{path}/mod_bias", n_out) + 1
