"""StyleGAN2 networks of NVIDIA's repositories stylegan2-ada-pytorch and stylegan3.

A file holds Python code beside the weights; it is measured, and never run. What shapes do not
say (activation bounds, gains) is read from each layer's own attributes: defaults differ
between the repositories, and forks keep the names of classes whose code they changed.

Demodulation is of weights without a gain. Blocks that ran in float16 run in float32.
"""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor

from gprior.checkpoints.inert import Node, Stored, tensors_of
from gprior.checkpoints.weights import State, Weights, assemble, dense, styled, torgb
from gprior.priors.stylegan2 import StyleGAN2

__all__ = ["from_nvlabs", "is_network"]

MOST = 4096  # modules, and tensors
NEXT = "load it with its authors' code and wrap it in a gprior.priors.Generator"


def is_network(found: Any) -> bool:
    """Whether an object of a file is a network that ``torch_utils.persistence`` wrote."""
    return isinstance(found, Node) and found.kind == "persistent" and bool(_meta(found))


def from_nvlabs(network: Node, most: int) -> StyleGAN2:
    """Return the generator of a persistent network.

    Parameters
    ----------
    network : Node
        ``G_ema``.
    most : int
        Bytes that its tensors may need together: those of the file.

    Raises
    ------
    ValueError
        If it is another network, or has options that `StyleGAN2` has not.
    """
    modules, code = _modules(network)
    stored = _stored(modules)
    read = Weights(tensors_of(stored, most), "NVIDIA")
    prior = _build(read, modules)
    if code:
        text = "".join(sorted(code)).encode(errors="replace")
        prior.record["code"] = (
            f"{len(text):,} bytes of Python in the file, not run; "
            f"sha256 {hashlib.sha256(text).hexdigest()}"
        )
    return prior


def _meta(node: Any) -> dict[str, Any]:
    """Return what a persistent object was made of, or nothing."""
    plain = isinstance(node, Node) and node.kind == "persistent" and len(node.args) == 1
    return node.args[0] if plain and isinstance(node.args[0], dict) else {}


def _modules(network: Node) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """Return the attributes of every module by its path, and the texts of their code."""
    found: dict[str, dict[str, Any]] = {}
    code: set[str] = set()
    todo: list[tuple[str, Any]] = [("", network)]
    while todo:
        path, node = todo.pop()
        meta = _meta(node)
        state, source = meta.get("state"), meta.get("module_src")
        children = state.get("_modules") if isinstance(state, dict) else None
        if not isinstance(state, dict) or not isinstance(children, dict):
            raise ValueError("a network in it is not made of modules")
        if len(found) + len(todo) + len(children) > MOST or len(path) > 200:
            raise ValueError(f"a network in it has more than {MOST} modules")
        found[path] = state
        code |= {source} if isinstance(source, str) and source else set()
        todo += [
            (f"{path}.{str(name)[:60]}".lstrip("."), child)
            for name, child in children.items()
            if child is not None
        ]
    return found, code


def _stored(modules: dict[str, dict[str, Any]]) -> dict[str, Stored]:
    """Return the tensors of a network by their names."""
    found: dict[str, Stored] = {}
    for path, state in modules.items():
        for kind in ("_parameters", "_buffers"):
            tensors = state.get(kind)
            if not isinstance(tensors, dict) or len(found) + len(tensors) > MOST:
                raise ValueError(f"a network in it has no tensors, or more than {MOST}")
            found |= {
                f"{path}.{str(name)[:60]}".lstrip("."): tensor
                for name, tensor in tensors.items()
                if isinstance(tensor, Stored)
            }
    return found


def _attribute(modules: dict[str, dict[str, Any]], path: str, name: str) -> Any:
    """Return a plain attribute of a module."""
    value = modules.get(path, {}).get(name, ...)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"{path} says nothing about its {name}: {NEXT}")


def _gain(modules: dict[str, dict[str, Any]], path: str, name: str) -> float:
    return _positive(_attribute(modules, path, name), f"{name} of {path}")


def _positive(value: Any, what: str) -> float:
    if not isinstance(value, (int, float)) or not 0 < value < 1e6:
        raise ValueError(f"{what} should be a positive number, got {str(value)[:60]!r}")
    return float(value)


def _same(modules: dict[str, dict[str, Any]], name: str, paths: list[str]) -> Any:
    """Return an attribute that all these modules must have in common."""
    values = {_attribute(modules, path, name) for path in paths}
    if len(values) != 1:
        raise ValueError(f"its layers differ in {name}, which is not read: {NEXT}")
    return values.pop()


def _build(read: Weights, modules: dict[str, dict[str, Any]]) -> StyleGAN2:
    if any(name.startswith("synthesis.input.") for name in read.left):
        raise ValueError(f"it is StyleGAN3 (T or R), which is not StyleGAN2: {NEXT}")
    if "b4.out.weight" in read or not any(n.startswith("synthesis.") for n in read.left):
        raise ValueError("it is a discriminator, or no generator; give the file that holds G_ema")
    log2 = read.count(r"synthesis\.b\d+\.conv1\.weight") + 1
    layers = read.count(r"mapping\.fc\d+\.weight")
    sides = [4 << k for k in range(log2 - 1)]
    blocks = [f"synthesis.b{side}" for side in sides]
    widths = [read.shape(f"{block}.conv1.weight", 4)[0] for block in blocks]
    convs = [f"{block}.conv{i}" for block in blocks for i in (0, 1) if block != blocks[0] or i]
    rgbs = [f"{block}.torgb" for block in blocks]
    for name, wanted, paths in (
        ("architecture", "skip", blocks),
        ("activation", "lrelu", convs + [f"mapping.fc{i}" for i in range(layers)]),
    ):
        if (value := _same(modules, name, paths)) != wanted:
            raise ValueError(f"its {name} is {str(value)[:60]!r}, only {wanted!r} is read: {NEXT}")
    clamp = _same(modules, "conv_clamp", convs + rgbs)
    use_noise = _same(modules, "use_noise", convs)
    w_dim = read.shape(f"mapping.fc{layers - 1}.weight", 2)[0]
    n_first = read.shape("mapping.fc0.weight", 2)[1]
    c_dim = read.shape("mapping.embed.weight", 2)[1] if "mapping.embed.weight" in read else 0
    config: dict[str, Any] = {
        "img_resolution": sides[-1],
        "img_channels": read.shape(f"{rgbs[0]}.weight", 4)[0],
        "z_dim": n_first - (w_dim if c_dim else 0),
        "w_dim": w_dim,
        "c_dim": c_dim,
        "num_mapping_layers": layers,
        "conv_clamp": None if clamp is None else _positive(clamp, "conv_clamp"),
        "use_noise": bool(use_noise),
        "widths": widths,
    }
    state: State = {"const": read(f"{blocks[0]}.const", widths[0], 4, 4)[None]}
    for i in range(layers):
        path, n_in = f"mapping.fc{i}", w_dim if i else n_first
        weight, bias = read(f"{path}.weight", w_dim, n_in), read(f"{path}.bias", w_dim)
        gains = _gain(modules, path, "weight_gain"), _gain(modules, path, "bias_gain")
        dense(state, f"mapping_network.layers.{i}", weight, bias, *gains)
    if c_dim:
        ours = "mapping_network.embed"
        state[f"{ours}.weight"], state[f"{ours}.bias"] = _linear(
            read, modules, "mapping.embed", w_dim, c_dim
        )
    for k, (block, width) in enumerate(zip(blocks, widths, strict=True)):
        for conv in ("conv0", "conv1") if k else ("conv1",):
            path, n_in = f"{block}.{conv}", widths[k - 1] if conv == "conv0" else width
            noise = None
            if use_noise:
                const = read(f"{path}.noise_const", sides[k], sides[k])
                noise = read(f"{path}.noise_strength"), const
            weight = read(f"{path}.weight", width, n_in, 3, 3)
            affine = _linear(read, modules, f"{path}.affine", n_in, w_dim)
            styled(state, f"blocks.{k}.{conv}", weight, affine, read(f"{path}.bias", width), noise)
        path, n = f"{block}.torgb", config["img_channels"]
        weight = read(f"{path}.weight", n, width, 1, 1) * _gain(modules, path, "weight_gain")
        affine = _linear(read, modules, f"{path}.affine", width, w_dim)
        torgb(state, f"blocks.{k}", weight, affine, read(f"{path}.bias", n))
    read.filters([n for n in read.left if n.endswith(".resample_filter")], 1)
    w_avg = read("mapping.w_avg", w_dim)
    read.close()
    # One mean for all classes, as there.
    return assemble(config, state, w_avg.expand(c_dim, w_dim) if c_dim else w_avg)


def _linear(
    read: Weights, modules: dict[str, dict[str, Any]], path: str, n_out: int, n_in: int
) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a layer without activation, gains folded."""
    if _attribute(modules, path, "activation") != "linear":
        raise ValueError(f"{path} has an activation, which is not read: {NEXT}")
    weight = read(f"{path}.weight", n_out, n_in) * _gain(modules, path, "weight_gain")
    return weight, read(f"{path}.bias", n_out) * _gain(modules, path, "bias_gain")
