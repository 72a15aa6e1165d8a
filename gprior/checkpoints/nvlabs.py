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
from gprior.checkpoints.layout import Affine, Layout
from gprior.checks import InputError
from gprior.priors import StyleGAN2

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
    prior = Nvidia(tensors_of(_stored(modules), most), modules).prior()
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
            raise InputError("a network in it is not made of modules")
        if len(found) + len(todo) + len(children) > MOST or len(path) > 200:
            raise InputError(f"a network in it has more than {MOST} modules")
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
                raise InputError(f"a network in it has no tensors, or more than {MOST}")
            found |= {
                f"{path}.{str(name)[:60]}".lstrip("."): tensor
                for name, tensor in tensors.items()
                if isinstance(tensor, Stored)
            }
    return found


class Nvidia(Layout):
    """Names as ``synthesis.b8.conv0.weight``, and the attributes of every layer."""

    project = "NVIDIA"

    def __init__(self, tensors: dict[str, Tensor], modules: dict[str, dict[str, Any]]) -> None:
        super().__init__(tensors)
        self.modules = modules

    def config(self) -> dict[str, Any]:
        """Return what shapes and attributes say."""
        if any(name.startswith("synthesis.input.") for name in self.left):
            raise InputError(f"it is StyleGAN3 (T or R), which is not StyleGAN2: {NEXT}")
        if not any(name.startswith("synthesis.b4.") for name in self.left):
            raise InputError("it is a discriminator, or no generator; give the file with G_ema")
        blocks = range(self.count(r"synthesis\.b\d+\.conv1\.weight"))
        layers = [f"mapping.fc{i}" for i in range(self.count(r"mapping\.fc\d+\.weight"))]
        convs = [self.path(k, part) for k in blocks for part in ("conv0", "conv1")][1:]
        rgbs = [self.path(k, "rgb") for k in blocks]
        self._need("architecture", "skip", [f"synthesis.b{4 << k}" for k in blocks])
        self._need("activation", "lrelu", convs + layers)
        clamp = self._same("conv_clamp", convs + rgbs)
        w_dim = self.shape(f"mapping.fc{len(layers) - 1}.weight", 2)[0]
        embed = "mapping.embed.weight"
        c_dim = self.shape(embed, 2)[1] if embed in self.left else 0
        return {
            "img_resolution": 2 << len(blocks),
            "img_channels": self.shape(f"{rgbs[0]}.weight", 4)[0],
            "z_dim": self.shape("mapping.fc0.weight", 2)[1] - (w_dim if c_dim else 0),
            "w_dim": w_dim,
            "c_dim": c_dim,
            "num_mapping_layers": len(layers),
            "conv_clamp": None if clamp is None else _positive(clamp, "conv_clamp"),
            "use_noise": bool(self._same("use_noise", convs)),
            "widths": [self.shape(f"{self.path(k, 'conv1')}.weight", 4)[0] for k in blocks],
        }

    def const(self, width: int) -> Tensor:
        """Return the constant input."""
        return self.read("synthesis.b4.const", width, 4, 4)[None]

    def dense(self, i: int, n_in: int, n_out: int) -> Affine:
        """Return a layer with the gains that it says it has."""
        path = f"mapping.fc{i}"
        weight = self.read(f"{path}.weight", n_out, n_in) * self._gain(path, "weight_gain")
        return weight, self.read(f"{path}.bias", n_out) * self._gain(path, "bias_gain")

    def embed(self, c_dim: int, w_dim: int) -> Affine:
        """Return the class embedding."""
        return self._linear("mapping.embed", w_dim, c_dim)

    def path(self, k: int, part: str) -> str:
        """Return the name of a layer."""
        return f"synthesis.b{4 << k}.{'torgb' if part == 'rgb' else part}"

    def conv(self, path: str, n_in: int, n_out: int) -> Tensor:
        """Return the weight; it has no gain."""
        return self.read(f"{path}.weight", n_out, n_in, 3, 3)

    def rgb(self, path: str, n_in: int, n_out: int) -> Affine:
        """Return weight with gain, and bias."""
        weight = self.read(f"{path}.weight", n_out, n_in, 1, 1) * self._gain(path, "weight_gain")
        return weight, self.read(f"{path}.bias", n_out)

    def affine(self, path: str, n_out: int, w_dim: int) -> Affine:
        """Return the modulation."""
        return self._linear(f"{path}.affine", n_out, w_dim)

    def bias(self, path: str, n: int) -> Tensor:
        """Return the bias."""
        return self.read(f"{path}.bias", n)

    def noise(self, path: str, number: int, side: int) -> Affine:
        """Return strength and map."""
        return self.read(f"{path}.noise_strength"), self.read(f"{path}.noise_const", side, side)

    def mean(self, w_dim: int) -> Tensor:
        """Return w_avg."""
        return self.read("mapping.w_avg", w_dim)

    def close(self) -> None:
        """Check the filters; refuse what is left."""
        self.filters([name for name in self.left if name.endswith(".resample_filter")], 1)
        super().close()

    def _linear(self, path: str, n_out: int, n_in: int) -> Affine:
        self._need("activation", "linear", [path])
        weight = self.read(f"{path}.weight", n_out, n_in) * self._gain(path, "weight_gain")
        return weight, self.read(f"{path}.bias", n_out) * self._gain(path, "bias_gain")

    def _gain(self, path: str, name: str) -> float:
        return _positive(self._same(name, [path]), f"{name} of {path}")

    def _need(self, name: str, wanted: str, paths: list[str]) -> None:
        if (value := self._same(name, paths)) != wanted:
            raise InputError(f"its {name} is {str(value)[:60]!r}, only {wanted!r} is read: {NEXT}")

    def _same(self, name: str, paths: list[str]) -> Any:
        """Return a plain attribute that all these modules have, and have in common."""
        values = {_plain(self.modules.get(path, {}).get(name, ...)) for path in paths}
        if len(values) != 1 or ... in values:
            raise InputError(f"its layers differ in their {name}, or say nothing of it: {NEXT}")
        return values.pop()


def _plain(value: Any) -> Any:
    """Return a value that is safe to hash, or an ellipsis."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else ...


def _positive(value: Any, what: str) -> float:
    if not isinstance(value, (int, float)) or not 0 < value < 1e6:
        raise InputError(f"{what} should be a positive number, got {str(value)[:60]!r}")
    return float(value)
