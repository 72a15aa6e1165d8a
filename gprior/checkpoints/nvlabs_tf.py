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
from gprior.checkpoints.layout import Affine, Layout, root
from gprior.checks import InputError
from gprior.priors import StyleGAN2

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
                raise InputError(f"its option {name} is one that StyleGAN2 is not read with")
            options[name] = value
        variables = state.get("variables")
        if not isinstance(variables, list) or len(variables) + len(stored) > MOST:
            raise InputError("a network in it has no list of variables")
        for pair in variables:
            if (
                not isinstance(pair, (tuple, list))
                or len(pair) != 2
                or not isinstance(pair[0], str)
            ):
                raise InputError("a network in it has a variable without a name")
            stored[f"{prefix}{pair[0][:80]}"] = pair[1]
    tensors = tensors_of({k: v for k, v in stored.items() if isinstance(v, Stored)}, most)
    numbers = {k: v for k, v in stored.items() if isinstance(v, float) and math.isfinite(v)}
    tensors |= {k: torch.tensor(v) for k, v in numbers.items()}
    if any("StyleMod" in name for name in tensors):
        raise InputError("it is StyleGAN 1, which is not StyleGAN2; it is not read")
    if "mapping/LabelConcat/weight" in tensors:
        raise InputError("its labels are joined without normalisation, as is not read")
    if "synthesis/4x4/Const/const" not in tensors:
        raise InputError("it is a discriminator, or no StyleGAN2 generator; give (G, D, Gs)")
    return TensorFlow(tensors, options).prior()


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
            raise InputError("a network in it is older than version 4, or none")
        found.append((prefix, state))
    return found


class TensorFlow(Layout):
    """Names as ``synthesis/8x8/Conv0_up/weight``."""

    project = "NVIDIA (TensorFlow)"

    def __init__(self, tensors: dict[str, Tensor], options: dict[str, Any]) -> None:
        super().__init__(tensors)
        self.options = options
        self.lr = self._number("mapping_lrmul", 0.01)

    def config(self) -> dict[str, Any]:
        """Return what shapes and options say."""
        blocks = range(max(self.count(r"synthesis/\d+x\d+/ToRGB/weight"), 1))
        layers = self.count(r"mapping/Dense\d+/weight")
        w_dim = self.shape(f"mapping/Dense{layers - 1}/weight", 2)[1]
        embed = "mapping/LabelEmbed/weight"
        c_dim = self.shape(embed, 2)[0] if embed in self.left else 0
        return {
            "img_resolution": 2 << len(blocks),
            "img_channels": self.shape(f"{self.path(0, 'rgb')}/weight", 4)[3],
            "z_dim": self.shape("mapping/Dense0/weight", 2)[0] - (w_dim if c_dim else 0),
            "w_dim": w_dim,
            "c_dim": c_dim,
            "num_mapping_layers": layers,
            "conv_clamp": self._number("conv_clamp", None),
            "use_noise": "synthesis/noise0" in self.left,
            "widths": [self.shape(f"{self.path(k, 'conv1')}/weight", 4)[3] for k in blocks],
        }

    def const(self, width: int) -> Tensor:
        """Return the constant input."""
        return self.read("synthesis/4x4/Const/const", 1, width, 4, 4)

    def dense(self, i: int, n_in: int, n_out: int) -> Affine:
        """Return a layer with its gain and learning-rate multiplier."""
        weight = self.read(f"mapping/Dense{i}/weight", n_in, n_out).t() * (self.lr * root(n_in))
        return weight, self.read(f"mapping/Dense{i}/bias", n_out) * self.lr

    def embed(self, c_dim: int, w_dim: int) -> Affine:
        """Return the class embedding, of stylegan2-ada."""
        weight = self.read("mapping/LabelEmbed/weight", c_dim, w_dim).t() * root(c_dim)
        return weight, self.read("mapping/LabelEmbed/bias", w_dim)

    def path(self, k: int, part: str) -> str:
        """Return the name of a layer."""
        word = {"rgb": "ToRGB", "conv0": "Conv0_up", "conv1": "Conv1" if k else "Conv"}[part]
        return f"synthesis/{4 << k}x{4 << k}/{word}"

    def conv(self, path: str, n_in: int, n_out: int) -> Tensor:
        """Return the weight with its gain, HWIO made OIHW, unflipped."""
        weight = self.read(f"{path}/weight", 3, 3, n_in, n_out).permute(3, 2, 0, 1)
        return (weight.flip(2, 3) if path.endswith("_up") else weight) * root(n_in, 9)

    def rgb(self, path: str, n_in: int, n_out: int) -> Affine:
        """Return weight with gain, and bias."""
        weight = self.read(f"{path}/weight", 1, 1, n_in, n_out).permute(3, 2, 0, 1) * root(n_in)
        return weight, self.read(f"{path}/bias", n_out)

    def affine(self, path: str, n_out: int, w_dim: int) -> Affine:
        """Return the modulation, to whose bias 1 is added."""
        weight = self.read(f"{path}/mod_weight", w_dim, n_out).t() * root(w_dim)
        return weight, self.read(f"{path}/mod_bias", n_out) + 1

    def bias(self, path: str, n: int) -> Tensor:
        """Return the bias."""
        return self.read(f"{path}/bias", n)

    def noise(self, path: str, number: int, side: int) -> Affine:
        """Return strength and map."""
        const = self.read(f"synthesis/noise{number}", 1, 1, side, side)
        return self.read(f"{path}/noise_strength"), const

    def mean(self, w_dim: int) -> Tensor:
        """Return dlatent_avg."""
        return self.read("dlatent_avg", w_dim)

    def close(self) -> None:
        """Leave the level of detail of training out; refuse what else is left."""
        for name in ("lod", "synthesis/lod"):
            self.left.pop(name, None)
        super().close()

    def _number(self, name: str, default: float | None) -> Any:
        value = self.options.get(name, default)
        if value is not None and (not isinstance(value, (int, float)) or not 0 < value < 1e6):
            raise InputError(f"its option {name} should be a positive number")
        return None if value is None else float(value)
