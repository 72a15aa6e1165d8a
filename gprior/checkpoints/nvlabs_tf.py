"""Reads StyleGAN2 networks of NVIDIA's TensorFlow repositories (stylegan2, stylegan2-ada).

These files hold Python code beside the variables. The code is never run. Convolutions are stored
as (height, width, in, out), and those that upsample are stored flipped. The original code
multiplies weights by 1/sqrt(fan-in) before it demodulates them, and adds 1 to the bias of a
modulation.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gprior.checkpoints.inert import Node, StoredTensor, tensors_of
from gprior.checkpoints.layout import Affine, Layout, equalised_gain, positive
from gprior.checkpoints.tensors import REMEDY
from gprior.checks import InputError
from gprior.priors import StyleGAN2

__all__ = ["from_tensorflow"]

MAX_VARIABLES = 4096
# Options that change the network, with the values that agree with `StyleGAN2`.
OPTIONS: dict[str, tuple[Any, ...]] = {
    "architecture": ("skip",),
    "nonlinearity": ("lrelu",),
    "act": ("lrelu",),
    "mapping_nonlinearity": ("lrelu",),
    "normalize_latents": (True,),
    "resample_kernel": ([1, 3, 3, 1],),
    "fused_modconv": (True, False),
}


def from_tensorflow(network: Node, max_bytes: int) -> StyleGAN2:
    """Return the generator of a ``dnnlib.tflib.network.Network``.

    Parameters
    ----------
    network : Node
        ``Gs``, the last of the three networks in a file.
    max_bytes : int
        How many bytes its tensors may need together: the size of the file.

    Raises
    ------
    InputError
        If it is another network, or has options that `StyleGAN2` does not have.
    """
    options: dict[str, Any] = {}
    variables: dict[str, Any] = {}
    for prefix, state in _networks(network):
        options |= _options(state)
        variables |= _variables(prefix, state)
        if len(variables) > MAX_VARIABLES:
            raise InputError(f"a network in it has more than {MAX_VARIABLES} variables")
    stored = {k: v for k, v in variables.items() if isinstance(v, StoredTensor)}
    tensors = tensors_of(stored, max_bytes)
    numbers = {k: v for k, v in variables.items() if isinstance(v, float) and math.isfinite(v)}
    tensors |= {k: torch.tensor(v, dtype=torch.float32) for k, v in numbers.items()}
    if any("StyleMod" in name for name in tensors):
        raise InputError(f"it is StyleGAN 1, which is not StyleGAN2: {REMEDY}")
    if "mapping/LabelConcat/weight" in tensors:
        raise InputError(
            "its mapping network joins labels and latents without normalising the labels, which "
            f"gprior's StyleGAN2 does not do: {REMEDY}"
        )
    if "synthesis/4x4/Const/const" not in tensors:
        raise InputError(
            "its last network is a discriminator or another network without a generator's layers; "
            "give a file of the three networks (G, D, Gs)"
        )
    return TensorFlow(tensors, options).prior()


def _networks(network: Node) -> list[tuple[str, dict[str, Any]]]:
    """Return the states of a network and of its components, with their prefixes."""
    states = []
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
            raise InputError("a network in it is damaged, or of a format older than version 4")
        states.append((prefix, state))
    return states


def _options(state: dict[str, Any]) -> dict[Any, Any]:
    """Return the options of a network; refuse those that `StyleGAN2` does not have."""
    options = state.get("static_kwargs")
    if not isinstance(options, dict):
        return {}
    for name, value in options.items():
        if name in OPTIONS and (given := _comparable(value)) not in OPTIONS[name]:
            readable = " or ".join(map(repr, OPTIONS[name]))
            raise InputError(
                f"its option {name} is {repr(given)[:60]}, only {readable} is read: {REMEDY}"
            )
    return options


def _variables(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    """Return the variables of a network by their names, with a prefix."""
    pairs = state.get("variables")
    if not isinstance(pairs, list) or len(pairs) > MAX_VARIABLES:
        raise InputError(f"a network in it has no list of at most {MAX_VARIABLES} variables")
    for pair in pairs:
        named = isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[0], str)
        if not named:
            raise InputError("a network in it has a variable without a name")
    return {f"{prefix}{name[:80]}": value for name, value in pairs}


def _comparable(value: Any) -> Any:
    """Return a short plain value, or None. To compare or print any other can take for ever."""
    if isinstance(value, (list, tuple)) and len(value) <= 8:
        return [v if isinstance(v, (int, float)) else None for v in value]
    return value if isinstance(value, (str, int, float)) else None


class TensorFlow(Layout):
    """Tensors with names such as ``synthesis/8x8/Conv0_up/weight``."""

    network = "generator of NVIDIA's StyleGAN2 (TensorFlow)"

    def __init__(self, tensors: dict[str, Tensor], options: dict[str, Any]) -> None:
        super().__init__(tensors)
        self.options = options
        self.lr_multiplier = positive("its mapping_lrmul", options.get("mapping_lrmul", 0.01))

    def config(self) -> dict[str, Any]:
        """Return the arguments of `StyleGAN2`, derived from shapes and options."""
        blocks = range(max(self.count(r"synthesis/\d+x\d+/ToRGB/weight"), 1))
        layers = self.count(r"mapping/Dense\d+/weight")
        w_dim = self.shape(f"mapping/Dense{layers - 1}/weight", 2)[1]
        embed = "mapping/LabelEmbed/weight"
        c_dim = self.shape(embed, 2)[0] if embed in self.unread else 0
        clamp = self.options.get("conv_clamp")
        return {
            "img_resolution": 2 << len(blocks),
            "img_channels": self.shape(f"{self.path(0, 'rgb')}/weight", 4)[3],
            "z_dim": self.shape("mapping/Dense0/weight", 2)[0] - (w_dim if c_dim else 0),
            "w_dim": w_dim,
            "c_dim": c_dim,
            "num_mapping_layers": layers,
            "conv_clamp": None if clamp is None else positive("its conv_clamp", clamp),
            "use_noise": "synthesis/noise0" in self.unread,
            "widths": [self.shape(f"{self.path(k, 'conv1')}/weight", 4)[3] for k in blocks],
        }

    def const(self, width: int) -> Tensor:
        """Return the constant input."""
        return self.read("synthesis/4x4/Const/const", 1, width, 4, 4)

    def dense(self, i: int, n_in: int, n_out: int) -> Affine:
        """Return layer i of the mapping network, with its gain and learning-rate multiplier."""
        weight = self.read(f"mapping/Dense{i}/weight", n_in, n_out).t()
        bias = self.read(f"mapping/Dense{i}/bias", n_out)
        return weight * (self.lr_multiplier * equalised_gain(n_in)), bias * self.lr_multiplier

    def embed(self, c_dim: int, w_dim: int) -> Affine:
        """Return the class embedding, which only stylegan2-ada has."""
        weight = self.read("mapping/LabelEmbed/weight", c_dim, w_dim).t() * equalised_gain(c_dim)
        return weight, self.read("mapping/LabelEmbed/bias", w_dim)

    def path(self, k: int, part: str) -> str:
        """Return the name of a layer of block k."""
        word = {"rgb": "ToRGB", "conv0": "Conv0_up", "conv1": "Conv1" if k else "Conv"}[part]
        return f"synthesis/{4 << k}x{4 << k}/{word}"

    def conv(self, path: str, n_in: int, n_out: int) -> Tensor:
        """Return the weight of a styled convolution, with its gain, not flipped."""
        weight = self.read(f"{path}/weight", 3, 3, n_in, n_out).permute(3, 2, 0, 1)
        weight = weight.flip(2, 3) if path.endswith("_up") else weight
        return weight * equalised_gain(n_in, 9)

    def rgb(self, path: str, n_in: int, n_out: int) -> Affine:
        """Return weight, with its gain, and bias of an output to RGB."""
        weight = self.read(f"{path}/weight", 1, 1, n_in, n_out).permute(3, 2, 0, 1)
        return weight * equalised_gain(n_in), self.read(f"{path}/bias", n_out)

    def affine(self, path: str, n_out: int, w_dim: int) -> Affine:
        """Return the layer that computes the styles of a convolution from w."""
        weight = self.read(f"{path}/mod_weight", w_dim, n_out).t() * equalised_gain(w_dim)
        return weight, self.read(f"{path}/mod_bias", n_out) + 1

    def bias(self, path: str, n: int) -> Tensor:
        """Return the bias of a styled convolution."""
        return self.read(f"{path}/bias", n)

    def noise(self, path: str, number: int, side: int) -> Affine:
        """Return strength and map of the noise."""
        const = self.read(f"synthesis/noise{number}", 1, 1, side, side)
        return self.read(f"{path}/noise_strength"), const

    def mean(self, w_dim: int) -> Tensor:
        """Return ``dlatent_avg``."""
        return self.read("dlatent_avg", w_dim)

    def close(self) -> None:
        """Ignore the level of detail of training; refuse the file if other tensors are left."""
        for name in ("lod", "synthesis/lod"):
            self.unread.pop(name, None)
        super().close()
