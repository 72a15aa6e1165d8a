"""What the three published layouts of StyleGAN2 have in common, up to the finished prior.

A subclass of `Layout` knows where its project keeps each part of the generator and how it scales
it. `Layout.prior` asks it for one part after the other and makes the `StyleGAN2`. A tensor that
was not asked for refuses the file, because the file then holds another network.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gprior.checkpoints.tensors import PublishedTensors
from gprior.checks import InputError
from gprior.priors import ROOT2, StyleGAN2, ready_
from gprior.randomness import normal

__all__ = ["Affine", "Layout", "equalised_gain", "positive"]

W_AVG_SAMPLES = 4096  # latents from which a mean style is estimated that a file does not have
Affine = tuple[Tensor, Tensor]  # weight and bias


class Layout(PublishedTensors):
    """The tensors of one generator, as a project names and scales them."""

    # Each project defines the methods from here to `mean`. They return weights as the project
    # uses them, with gains multiplied in. Demodulation removes any factor of a weight, but the
    # epsilon beside it, 1e-8 everywhere, is relative to the scale at which it happens; so weights
    # that are demodulated are returned at the scale at which the project demodulates them.

    def config(self) -> dict[str, Any]:
        """Return the arguments of `StyleGAN2`, including ``widths``."""
        raise NotImplementedError

    def const(self, width: int) -> Tensor:
        """Return the constant input (1, width, 4, 4)."""
        raise NotImplementedError

    def dense(self, i: int, n_in: int, n_out: int) -> Affine:
        """Return layer i of the mapping network, before its leaky ReLU."""
        raise NotImplementedError

    def embed(self, c_dim: int, w_dim: int) -> Affine:
        """Return the class embedding."""
        raise NotImplementedError

    def path(self, k: int, part: str) -> str:
        """Return the name of ``conv0``, ``conv1`` or ``rgb`` of block k."""
        raise NotImplementedError

    def conv(self, path: str, n_in: int, n_out: int) -> Tensor:
        """Return the weight (n_out, n_in, 3, 3) of a styled convolution."""
        raise NotImplementedError

    def rgb(self, path: str, n_in: int, n_out: int) -> Affine:
        """Return weight (n_out, n_in, 1, 1) and bias of an output to RGB."""
        raise NotImplementedError

    def affine(self, path: str, n_out: int, w_dim: int) -> Affine:
        """Return the layer that computes the styles of a convolution from w."""
        raise NotImplementedError

    def bias(self, path: str, n: int) -> Tensor:
        """Return the bias of a styled convolution."""
        raise NotImplementedError

    def noise(self, path: str, number: int, side: int) -> Affine:
        """Return strength and map of the noise."""
        raise NotImplementedError

    def mean(self, w_dim: int) -> Tensor | None:
        """Return the mean style, one for all classes, or None where the file has none."""
        raise NotImplementedError

    # Every project uses the methods from here on.

    def count(self, pattern: str) -> int:
        """Return how many names match a pattern from their first to their last character."""
        return sum(re.fullmatch(pattern, name) is not None for name in self.unread)

    def check_filters(self, names: Iterable[str], total: float) -> None:
        """Check that resampling filters are [1, 3, 3, 1] along both axes, with this sum."""
        row = torch.tensor([0.125, 0.375, 0.375, 0.125], dtype=torch.float32)
        for name in names:
            if not torch.allclose(self.read(name, 4, 4), total * torch.outer(row, row), atol=1e-4):
                raise InputError(
                    f"{name} is another filter than [1, 3, 3, 1], the only one that gprior's "
                    "StyleGAN2 has"
                )

    def prior(self) -> StyleGAN2:
        """Return the frozen generator.

        Raises
        ------
        InputError
            If a tensor is missing or has another shape than the others imply, or if there are
            tensors that this architecture does not have.
        """
        config = self.config()
        with torch.device("meta"):  # refuses impossible sizes before any memory is used
            prior = StyleGAN2(**config)
        state = self._state(prior)
        file_mean = self.mean(prior.w_dim)
        self.close()
        w_avg = torch.zeros(prior.w_dim, dtype=torch.float32) if file_mean is None else file_mean
        state["mapping_network.w_avg"] = w_avg.expand(prior.w_avg.shape)
        prior.load_state_dict({k: v.clone() for k, v in state.items()}, assign=True)
        ready_(prior)
        prior.freeze()
        if file_mean is None:
            keys = [("w_avg", i) for i in range(W_AVG_SAMPLES)]
            z = normal(keys, (prior.z_dim,), prior.like)
            prior.mapping_network.w_avg = prior.mapping_network(z).mean(0)
            prior.record["w_avg"] = f"estimated from {W_AVG_SAMPLES} latents: the file has none"
        return prior

    def _state(self, prior: StyleGAN2) -> dict[str, Tensor]:
        """Return the state dict with gains multiplied in, except for the mean style."""
        w_dim, c_dim, C = prior.w_dim, prior.c_dim, prior.image_shape[0]
        state = {"const": self.const(prior.widths[0])}

        def put(name: str, pair: Affine, gain: float = 1.0) -> None:
            state[f"{name}.weight"], state[f"{name}.bias"] = (gain * part for part in pair)

        n_in = prior.z_dim + (w_dim if c_dim else 0)
        for i in range(prior.config["num_mapping_layers"]):
            put(f"mapping_network.layers.{i}", self.dense(i, n_in, w_dim), ROOT2)
            n_in = w_dim
        if c_dim:
            put("mapping_network.embed", self.embed(c_dim, w_dim))
        below = prior.widths[0]
        for k, width in enumerate(prior.widths):
            for j in (0, 1) if k else (1,):
                path, name = self.path(k, f"conv{j}"), f"blocks.{k}.conv{j}"
                n_in = width if j else below
                state[f"{name}.conv.weight"] = self.conv(path, n_in, width)
                put(f"{name}.conv.affine", self.affine(path, n_in, w_dim))
                state[f"{name}.bias"] = self.bias(path, width)
                if prior.config["use_noise"]:
                    side = 4 << k
                    strength, const = self.noise(path, 2 * k - 1 + j if k else 0, side)
                    state[f"{name}.noise_strength"] = strength.reshape(())
                    state[f"{name}.noise_const"] = const.reshape(1, 1, side, side)
            path, name = self.path(k, "rgb"), f"blocks.{k}"
            state[f"{name}.to_rgb.weight"], state[f"{name}.rgb_bias"] = self.rgb(path, width, C)
            put(f"{name}.to_rgb.affine", self.affine(path, width, w_dim))
            below = width
        return state


def equalised_gain(*sizes: int) -> float:
    """Return 1 / sqrt(fan-in), where the fan-in is the product of ``sizes``."""
    return 1 / math.sqrt(math.prod(sizes))


def positive(name: str, value: Any) -> float:
    """Return a number above 0 and below a million that a file gives."""
    if not isinstance(value, (int, float)) or not 0 < value < 1e6:
        # A list from a file can hold one list many times, and so on: to print it takes for ever.
        plain = value is None or isinstance(value, (str, int, float))
        shown = repr(value)[:60] if plain else f"a {type(value).__name__}"
        raise InputError(f"{name} should be a number above 0 and below a million, got {shown}")
    return float(value)
