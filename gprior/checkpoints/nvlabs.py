"""Reads StyleGAN2 networks of NVIDIA's repositories stylegan2-ada-pytorch and stylegan3.

These files hold Python code beside the weights. The code is measured and never run. What shapes do
not show (activation bounds, gains) is read from the attributes of each layer, because the defaults
differ between the repositories, and forks keep the names of classes whose code they changed.

This code demodulates weights without a gain. Its blocks that ran in float16 run in float32 here.
"""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor

from gprior.checkpoints.inert import Node, StoredTensor, tensors_of
from gprior.checkpoints.layout import Affine, Layout, positive
from gprior.checkpoints.tensors import REMEDY
from gprior.checks import InputError
from gprior.priors import StyleGAN2

__all__ = ["from_nvlabs", "is_network"]

MAX_ENTRIES = 4096  # of modules, and of tensors


def is_network(value: Any) -> bool:
    """Return whether ``torch_utils.persistence`` wrote this object of a file as a network."""
    return isinstance(value, Node) and value.kind == "persistent" and bool(_metadata(value))


def from_nvlabs(network: Node, max_bytes: int) -> StyleGAN2:
    """Return the generator of a persistent network.

    Parameters
    ----------
    network : Node
        ``G_ema``.
    max_bytes : int
        How many bytes its tensors may need together: the size of the file.

    Raises
    ------
    InputError
        If it is another network, or has options that `StyleGAN2` does not have.
    """
    modules, code = _modules(network)
    prior = Nvidia(tensors_of(_stored_tensors(modules), max_bytes), modules).prior()
    if code:
        text = "".join(sorted(code)).encode(errors="replace")
        prior.record["code"] = (
            f"{len(text):,} bytes of Python in the file, not run; "
            f"sha256 {hashlib.sha256(text).hexdigest()}"
        )
    return prior


def _metadata(node: Any) -> dict[str, Any]:
    """Return the argument that a persistent object was made from; empty for other objects."""
    persistent = isinstance(node, Node) and node.kind == "persistent" and len(node.args) == 1
    return node.args[0] if persistent and isinstance(node.args[0], dict) else {}


def _modules(network: Node) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """Return the attributes of every module by its path, and the source texts in the file."""
    modules: dict[str, dict[str, Any]] = {}
    code: set[str] = set()
    todo: list[tuple[str, Any]] = [("", network)]
    while todo:
        path, node = todo.pop()
        metadata = _metadata(node)
        state, source = metadata.get("state"), metadata.get("module_src")
        children = state.get("_modules") if isinstance(state, dict) else None
        if not isinstance(state, dict) or not isinstance(children, dict):
            raise InputError("a network in it is not made of modules")
        if len(modules) + len(todo) + len(children) > MAX_ENTRIES or len(path) > 200:
            raise InputError(f"a network in it has more than {MAX_ENTRIES} modules")
        modules[path] = state
        code |= {source} if isinstance(source, str) and source else set()
        todo += [
            (f"{path}.{str(name)[:60]}".lstrip("."), child)
            for name, child in children.items()
            if child is not None
        ]
    return modules, code


def _stored_tensors(modules: dict[str, dict[str, Any]]) -> dict[str, StoredTensor]:
    """Return the tensors of a network by their names."""
    stored: dict[str, StoredTensor] = {}
    for path, state in modules.items():
        for kind in ("_parameters", "_buffers"):
            tensors = state.get(kind)
            if not isinstance(tensors, dict) or len(stored) + len(tensors) > MAX_ENTRIES:
                raise InputError(f"a network in it has no tensors, or more than {MAX_ENTRIES}")
            stored |= {
                f"{path}.{str(name)[:60]}".lstrip("."): tensor
                for name, tensor in tensors.items()
                if isinstance(tensor, StoredTensor)
            }
    return stored


class Nvidia(Layout):
    """Tensors with names such as ``synthesis.b8.conv0.weight``, and the attributes of layers."""

    network = "generator of NVIDIA's StyleGAN2"

    def __init__(self, tensors: dict[str, Tensor], modules: dict[str, dict[str, Any]]) -> None:
        super().__init__(tensors)
        self.modules = modules

    def config(self) -> dict[str, Any]:
        """Return the arguments of `StyleGAN2`, derived from shapes and attributes."""
        if any(name.startswith("synthesis.input.") for name in self.unread):
            raise InputError(f"it is StyleGAN3 (T or R), which is not StyleGAN2: {REMEDY}")
        if not any(name.startswith("synthesis.b4.") for name in self.unread):
            raise InputError(
                "its G_ema is a discriminator or another network without a generator's layers; "
                "give a file whose G_ema is the generator"
            )
        blocks = range(self.count(r"synthesis\.b\d+\.conv1\.weight"))
        layers = [f"mapping.fc{i}" for i in range(self.count(r"mapping\.fc\d+\.weight"))]
        convs = [self.path(k, part) for k in blocks for part in ("conv0", "conv1")][1:]
        rgbs = [self.path(k, "rgb") for k in blocks]
        self._require("architecture", "skip", [f"synthesis.b{4 << k}" for k in blocks])
        self._require("activation", "lrelu", convs + layers)
        clamp = self._common("conv_clamp", convs + rgbs)
        w_dim = self.shape(f"mapping.fc{len(layers) - 1}.weight", 2)[0]
        embed = "mapping.embed.weight"
        c_dim = self.shape(embed, 2)[1] if embed in self.unread else 0
        return {
            "img_resolution": 2 << len(blocks),
            "img_channels": self.shape(f"{rgbs[0]}.weight", 4)[0],
            "z_dim": self.shape("mapping.fc0.weight", 2)[1] - (w_dim if c_dim else 0),
            "w_dim": w_dim,
            "c_dim": c_dim,
            "num_mapping_layers": len(layers),
            "conv_clamp": None if clamp is None else positive("conv_clamp", clamp),
            "use_noise": bool(self._common("use_noise", convs)),
            "widths": [self.shape(f"{self.path(k, 'conv1')}.weight", 4)[0] for k in blocks],
        }

    def const(self, width: int) -> Tensor:
        """Return the constant input."""
        return self.read("synthesis.b4.const", width, 4, 4)[None]

    def dense(self, i: int, n_in: int, n_out: int) -> Affine:
        """Return layer i of the mapping network, with the gains that its attributes give."""
        return self._linear(f"mapping.fc{i}", n_out, n_in)

    def embed(self, c_dim: int, w_dim: int) -> Affine:
        """Return the class embedding."""
        self._require("activation", "linear", ["mapping.embed"])
        return self._linear("mapping.embed", w_dim, c_dim)

    def path(self, k: int, part: str) -> str:
        """Return the name of a layer of block k."""
        return f"synthesis.b{4 << k}.{'torgb' if part == 'rgb' else part}"

    def conv(self, path: str, n_in: int, n_out: int) -> Tensor:
        """Return the weight of a styled convolution, which has no gain."""
        return self.read(f"{path}.weight", n_out, n_in, 3, 3)

    def rgb(self, path: str, n_in: int, n_out: int) -> Affine:
        """Return weight, with its gain, and bias of an output to RGB."""
        weight = self.read(f"{path}.weight", n_out, n_in, 1, 1) * self._gain(path, "weight_gain")
        return weight, self.read(f"{path}.bias", n_out)

    def affine(self, path: str, n_out: int, w_dim: int) -> Affine:
        """Return the layer that computes the styles of a convolution from w."""
        self._require("activation", "linear", [f"{path}.affine"])
        return self._linear(f"{path}.affine", n_out, w_dim)

    def bias(self, path: str, n: int) -> Tensor:
        """Return the bias of a styled convolution."""
        return self.read(f"{path}.bias", n)

    def noise(self, path: str, number: int, side: int) -> Affine:
        """Return strength and map of the noise."""
        return self.read(f"{path}.noise_strength"), self.read(f"{path}.noise_const", side, side)

    def mean(self, w_dim: int) -> Tensor:
        """Return ``w_avg``."""
        return self.read("mapping.w_avg", w_dim)

    def close(self) -> None:
        """Check the resampling filters, and refuse the file if other tensors are left."""
        filters = [name for name in self.unread if name.endswith(".resample_filter")]
        self.check_filters(filters, 1)
        super().close()

    def _linear(self, path: str, n_out: int, n_in: int) -> Affine:
        """Return weight and bias of a fully connected layer, with their gains."""
        weight = self.read(f"{path}.weight", n_out, n_in) * self._gain(path, "weight_gain")
        return weight, self.read(f"{path}.bias", n_out) * self._gain(path, "bias_gain")

    def _gain(self, path: str, name: str) -> float:
        return positive(f"{name} of {path}", self._common(name, [path]))

    def _require(self, name: str, value: str, paths: list[str]) -> None:
        """Check that an attribute of these modules has a value."""
        if (given := self._common(name, paths)) != value:
            raise InputError(f"its {name} is {str(given)[:60]!r}, only {value!r} is read: {REMEDY}")

    def _common(self, name: str, paths: list[str]) -> Any:
        """Return the value of an attribute that must be the same in all these modules."""
        values = {_hashable(self.modules.get(path, {}).get(name, ...)) for path in paths}
        if len(values) != 1 or ... in values:
            raise InputError(f"its layers have no {name}, or differ in it: {REMEDY}")
        return values.pop()


def _hashable(value: Any) -> Any:
    """Return a value whose hash is quick to compute, and an ellipsis for any other."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else ...
