"""Readers of the two published layouts of BigGAN.

A reader fills the layers of a `BigGAN` from the tensors of a published state dict. The prior is
frozen, so each weight is divided by its spectral norm once, by the rule of its layout, and tensors
that always act together (gain and bias of a normalisation) become one tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from gprior.checkpoints.tensors import PublishedTensors
from gprior.checks import InputError
from gprior.priors import Attention, Norm

__all__ = ["BigGANPyTorch", "HuggingFace"]


class Reader(PublishedTensors):
    """What both layouts have in common.

    Attributes
    ----------
    constants : (str, str)
        Names of gain and bias of a batch normalisation that does not depend on the class.
    conditioned : (str, str)
        The same where they depend on the class and the latent.
    stats : (str, str)
        Names of the mean and the variance.
    """

    constants: tuple[str, str]
    conditioned: tuple[str, str]
    stats: tuple[str, str]

    def weight(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return a weight over its spectral norm, as the published code has it in eval mode."""
        raise NotImplementedError

    def fill(self, layer: nn.Module, name: str) -> None:
        """Load a layer of the prior from the published tensors whose names begin with ``name``."""
        state = self._norm(layer, name) if isinstance(layer, Norm) else self._linear(layer, name)
        layer.load_state_dict(state, assign=True)

    def fill_attention(
        self, layer: Attention, name: str, parts: Sequence[str], gamma_shape: Sequence[int] = ()
    ) -> None:
        """Load self-attention; ``parts`` are the names of query, key, value and output.

        The published output is multiplied by a number gamma, which goes into the weight.
        """
        convs = (layer.query, layer.key, layer.value, layer.out)
        for conv, part in zip(convs, parts, strict=True):
            self.fill(conv, f"{name}.{part}")
        layer.out.weight.data *= self.read(f"{name}.gamma", *gamma_shape)

    def _linear(self, layer: Any, name: str) -> dict[str, Tensor]:
        """Return the state of a linear or convolutional layer."""
        shape = tuple(layer.weight.shape)
        transposed = isinstance(layer, nn.ConvTranspose2d)
        if transposed:  # published as a convolution after doubling the pixels
            shape = (shape[1], shape[0], 3, 3)
        weight = self.weight(name, shape)
        state = {"weight": doubling(weight) if transposed else weight}
        if layer.bias is not None:
            state["bias"] = self.read(f"{name}.bias", shape[0])
        return state

    def _norm(self, layer: Norm, name: str) -> dict[str, Tensor]:
        """Return the state of a batch normalisation."""
        n, width = layer.mean.shape
        shape = (n, width) if n > 1 else (width,)
        state = {
            key: self.read(f"{name}.{published}", *shape).view(n, width)
            for key, published in zip(("mean", "var"), self.stats, strict=True)
        }
        if layer.weight is None:
            gain_and_bias = [self.read(f"{name}.{k}", width) for k in self.constants]
            return {**state, "bias": torch.cat(gain_and_bias)}
        weight_shape = (width, layer.weight.shape[1])
        weight = torch.cat([self.weight(f"{name}.{k}", weight_shape) for k in self.conditioned])
        constant = weight.new_tensor([1.0, 0.0]).repeat_interleave(width)  # the gain is 1 + W_g c
        return {**state, "weight": weight, "bias": constant}


class HuggingFace(Reader):
    """The BigGAN-deep of pytorch-pretrained-biggan."""

    network = "Hugging Face BigGAN-deep"
    constants, conditioned = ("weight", "bias"), ("scale", "offset")
    stats = ("running_means", "running_vars")

    def weight(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return W / (u W v) with the stored vectors u and v."""
        W = self.read(f"{name}.weight_orig", *shape)
        u = self.read(f"{name}.weight_u", shape[0]).double()
        v = self.read(f"{name}.weight_v", math.prod(shape[1:])).double()
        return divided(name, W, u @ W.flatten(1).double() @ v)


class BigGANPyTorch(Reader):
    """The generator of BigGAN-PyTorch."""

    network = "BigGAN-PyTorch generator"
    constants = conditioned = ("gain", "bias")
    stats = ("stored_mean", "stored_var")

    def weight(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return W / sigma, with sigma from one power iteration that starts at the stored u0."""
        W = self.read(f"{name}.weight", *shape)
        u = self.read(f"{name}.u0", 1, shape[0]).double()
        self.read(f"{name}.sv0", 1)  # a record of the training, which has no effect
        flat = W.flatten(1).double()
        v = F.normalize(u @ flat, eps=1e-6)
        return divided(name, W, (v @ flat.t()).norm())


def divided(name: str, weight: Tensor, sigma: Tensor) -> Tensor:
    """Return weight / sigma, computed in float64."""
    if not bool(sigma.isfinite() & (sigma != 0)):
        raise InputError(
            f"the spectral norm of {name} must be finite and not 0, got {sigma:g}; the file is "
            "damaged: obtain it again"
        )
    return (weight.double() / sigma).float()


def doubling(weight: Tensor) -> Tensor:
    """Return the kernel of a transposed convolution that doubles the pixels and convolves.

    The shape changes from (O, I, 3, 3) to (I, O, 4, 4), for stride 2 and padding 1. Doubling
    copies each pixel to 2x2 pixels, each of which the flipped kernel then spreads.
    """
    wide = F.pad(weight.double().flip(2, 3).transpose(0, 1), (1, 1, 1, 1))
    return (4 * F.avg_pool2d(wide, 2, stride=1)).float()
