"""From a published state dict to a `StyleGAN2`: what the three layouts have in common.

A `Layout` knows where its project keeps each part of the generator and how it scales it; the
loop over the parts is here, once. Every tensor is read once, by its name and expected shape, and
one that is left over refuses the file: it is then another network.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from gprior.checks import InputError
from gprior.priors import ROOT2, StyleGAN2, ready_
from gprior.randomness import normal

__all__ = ["Affine", "Layout", "root"]

DRAWS = 4096  # for a mean style that a file does not have
Affine = tuple[Tensor, Tensor]


class Layout:
    """The tensors of one generator, as a project names and scales them.

    Attributes
    ----------
    project : str
        Whose layout it is, for messages.

    Parameters
    ----------
    tensors : mapping
        Name to tensor.
    """

    project: str

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.left = dict(tensors)

    # What a layout says. Weights come scaled as the project uses them; those that are
    # demodulated at the scale at which it demodulates: demodulation removes any factor, and
    # the epsilon beside it, 1e-8 everywhere, is relative to this scale.

    def config(self) -> dict[str, Any]:
        """Return what `StyleGAN2` is made with; ``widths`` among it."""
        raise NotImplementedError

    def const(self, width: int) -> Tensor:
        """Return the constant input (1, width, 4, 4)."""
        raise NotImplementedError

    def dense(self, i: int, n_in: int, n_out: int) -> Affine:
        """Return weight and bias of a layer of the mapping network, before its leaky ReLU."""
        raise NotImplementedError

    def embed(self, c_dim: int, w_dim: int) -> Affine:
        """Return weight and bias of the class embedding."""
        raise NotImplementedError

    def path(self, k: int, part: str) -> str:
        """Return where ``conv0``, ``conv1`` or ``rgb`` of block k is."""
        raise NotImplementedError

    def conv(self, path: str, n_in: int, n_out: int) -> Tensor:
        """Return the weight (n_out, n_in, 3, 3) of a styled convolution."""
        raise NotImplementedError

    def rgb(self, path: str, n_in: int, n_out: int) -> Affine:
        """Return weight (n_out, n_in, 1, 1) and bias of an output to RGB."""
        raise NotImplementedError

    def affine(self, path: str, n_out: int, w_dim: int) -> Affine:
        """Return weight and bias of the layer that makes styles of w."""
        raise NotImplementedError

    def bias(self, path: str, n: int) -> Tensor:
        """Return the bias of a styled convolution."""
        raise NotImplementedError

    def noise(self, path: str, number: int, side: int) -> Affine:
        """Return strength and map of the noise."""
        raise NotImplementedError

    def mean(self, w_dim: int) -> Tensor | None:
        """Return the mean style, one for all classes, or None where there is none."""
        raise NotImplementedError

    def close(self) -> None:
        """Refuse tensors that nothing asked for; a layout checks its filters here."""
        if self.left:
            some = ", ".join(repr(name[:60]) for name in sorted(self.left)[:3])
            raise InputError(
                f"{len(self.left)} tensors are no part of a StyleGAN2 generator of {self.project} "
                f"({some}): it is a variant; load it with its authors' code and wrap it in a "
                "gprior.priors.Generator"
            )

    # What every layout uses.

    def shape(self, name: str, dims: int) -> tuple[int, ...]:
        """Return the shape of a tensor from which the architecture is derived."""
        if name not in self.left or self.left[name].ndim != dims:
            found = tuple(self.left[name].shape) if name in self.left else "none"
            raise InputError(
                f"a generator of {self.project} has a tensor {name} of {dims} dimensions, "
                f"this one has {found}"
            )
        return tuple(self.left[name].shape)

    def read(self, name: str, *shape: int) -> Tensor:
        """Return a tensor of this shape, in float32."""
        found = self.left.pop(name, None)
        if found is None or not found.is_floating_point() or tuple(found.shape) != shape:
            what = "none" if found is None else f"{found.dtype} {tuple(found.shape)}"
            raise InputError(
                f"tensor {name} should be real with shape {shape} in this generator of "
                f"{self.project}, the file has {what}"
            )
        return found.float()

    def count(self, pattern: str) -> int:
        """Return how many names match a pattern whole."""
        return sum(re.fullmatch(pattern, name) is not None for name in self.left)

    def filters(self, names: Iterable[str], total: float) -> None:
        """Check that resampling filters are [1, 3, 3, 1] along both axes, with this sum."""
        row = torch.tensor([0.125, 0.375, 0.375, 0.125])
        for name in names:
            if not torch.allclose(self.read(name, 4, 4), total * torch.outer(row, row), atol=1e-4):
                raise InputError(f"{name} is another filter than [1, 3, 3, 1], which is not read")

    def prior(self) -> StyleGAN2:
        """Return the frozen generator.

        Raises
        ------
        ValueError
            If a tensor is missing, too many, or of another shape than the others imply.
        """
        config = self.config()
        with torch.device("meta"):  # refuses impossible sizes; shapes without memory
            prior = StyleGAN2(**config)
        state = self._state(prior)
        w_avg = self.mean(prior.w_dim)
        self.close()
        known = torch.zeros(prior.w_dim) if w_avg is None else w_avg
        state["mapping_network.w_avg"] = known.expand(prior.w_avg.shape)
        prior.load_state_dict({k: v.clone() for k, v in state.items()}, assign=True)
        ready_(prior)
        prior.freeze()
        if w_avg is None:
            z = normal([("w_avg", i) for i in range(DRAWS)], (prior.z_dim,), prior.like)
            prior.mapping_network.w_avg = prior.mapping_network(z).mean(0)
            prior.record["w_avg"] = f"estimated from {DRAWS} latents: the file has none"
        return prior

    def _state(self, prior: StyleGAN2) -> dict[str, Tensor]:
        """Return the folded state dict, but for the mean style."""
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


def root(*sizes: int) -> float:
    """Return 1 / sqrt(fan-in), the equalised gain."""
    return 1 / math.sqrt(math.prod(sizes))
