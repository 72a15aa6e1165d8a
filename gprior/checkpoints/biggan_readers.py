"""The two published layouts of BigGAN, read tensor by tensor with every shape checked.

Layers of ours are filled from tensors of theirs: spectral norms are divided out by each
layout's own rule, since the prior is frozen, and what always acts together is one tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from gprior.checks import InputError
from gprior.priors import Attention, Norm

__all__ = ["BigGANPyTorch", "HuggingFace", "Reader"]


class Reader:
    """A published state dict: every tensor is read once, by its name and expected shape."""

    layout: str
    constants: tuple[str, str]  # names of gain and bias of a batch normalisation
    conditioned: tuple[str, str]  # ... and where they depend on a condition
    stats: tuple[str, str]

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.left = dict(tensors)

    def shape(self, name: str, dims: int) -> tuple[int, ...]:
        """Return the shape of a tensor from which the architecture is derived."""
        found = self.left.get(name)
        if found is None or found.ndim != dims:
            raise InputError(
                f"a {self.layout} checkpoint has a tensor {name} of {dims} dimensions, this one "
                f"has {_kind(found)}"
            )
        return tuple(found.shape)

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Return a tensor in float32."""
        found = self.left.pop(name, None)
        if found is None or not found.is_floating_point() or tuple(found.shape) != shape:
            raise InputError(
                f"tensor {name} should be real with shape {shape} for this {self.layout} "
                f"architecture, the checkpoint has {_kind(found)}"
            )
        return found.detach().float()

    def weight(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return a weight over its spectral norm, by the published rule of its eval mode."""
        raise NotImplementedError

    def fill(self, layer: nn.Module, name: str) -> None:
        """Load a layer of ours from the tensors of a name."""
        found = self._norm(layer, name) if isinstance(layer, Norm) else self._linear(layer, name)
        layer.load_state_dict(found, assign=True)

    def attention(self, layer: Attention, name: str, parts: Sequence[str], *gamma: int) -> None:
        """Load self-attention from the names of its query, key, value and output."""
        ours = (layer.query, layer.key, layer.value, layer.out)
        for own, theirs in zip(ours, parts, strict=True):
            self.fill(own, f"{name}.{theirs}")
        layer.out.weight.data *= self(f"{name}.gamma", *gamma)

    def close(self) -> None:
        """Refuse tensors that nothing asked for."""
        if self.left:
            some = ", ".join(sorted(map(str, self.left))[:3])
            raise InputError(
                f"{len(self.left)} tensors are no part of this {self.layout} architecture: {some}"
            )

    def _linear(self, layer: Any, name: str) -> dict[str, Tensor]:
        shape = tuple(layer.weight.shape)
        if isinstance(layer, nn.ConvTranspose2d):
            shape = (shape[1], shape[0], 3, 3)
        weight = self.weight(name, shape)
        found = {"weight": doubling(weight) if isinstance(layer, nn.ConvTranspose2d) else weight}
        return found if layer.bias is None else {**found, "bias": self(f"{name}.bias", shape[0])}

    def _norm(self, layer: Norm, name: str) -> dict[str, Tensor]:
        n, width = layer.mean.shape
        shape = (n, width) if n > 1 else (width,)
        found = {
            ours: self(f"{name}.{theirs}", *shape).view(n, width)
            for ours, theirs in zip(("mean", "var"), self.stats, strict=True)
        }
        if layer.weight is None:
            both = [self(f"{name}.{k}", width) for k in self.constants]
            return {**found, "bias": torch.cat(both)}
        own = (width, layer.weight.shape[1])
        weight = torch.cat([self.weight(f"{name}.{k}", own) for k in self.conditioned])
        constant = torch.cat([torch.ones(width), torch.zeros(width)])  # gain 1 + W_g c
        return {**found, "weight": weight, "bias": constant}


class HuggingFace(Reader):
    """BigGAN-deep of pytorch-pretrained-biggan."""

    layout = "Hugging Face BigGAN-deep"
    constants, conditioned = ("weight", "bias"), ("scale", "offset")
    stats = ("running_means", "running_vars")

    def weight(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return W / (u W v) with the stored vectors."""
        W = self(f"{name}.weight_orig", *shape)
        u = self(f"{name}.weight_u", shape[0]).double()
        v = self(f"{name}.weight_v", math.prod(shape[1:])).double()
        return divided(name, W, u @ W.flatten(1).double() @ v)


class BigGANPyTorch(Reader):
    """The generator of BigGAN-PyTorch."""

    layout = "BigGAN-PyTorch"
    constants = conditioned = ("gain", "bias")
    stats = ("stored_mean", "stored_var")

    def weight(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return W / sigma, sigma by one power iteration from the stored vector u0."""
        W = self(f"{name}.weight", *shape)
        u = self(f"{name}.u0", 1, shape[0]).double()
        self(f"{name}.sv0", 1)  # a record of training, without effect
        flat = W.flatten(1).double()
        v = F.normalize(u @ flat, eps=1e-6)
        return divided(name, W, (v @ flat.t()).norm())


def divided(name: str, weight: Tensor, sigma: Tensor) -> Tensor:
    """Return weight / sigma."""
    if not bool(sigma.isfinite() & (sigma != 0)):
        raise InputError(f"the spectral norm of {name} must be finite and not 0, got {sigma:g}")
    return (weight.double() / sigma).float()


def doubling(weight: Tensor) -> Tensor:
    """Return the kernel of a transposed convolution that doubles the pixels and convolves.

    From (O, I, 3, 3) to (I, O, 4, 4), with stride 2 and padding 1: each pixel is spread on
    2x2, and each of them by the flipped kernel.
    """
    wide = F.pad(weight.double().flip(2, 3).transpose(0, 1), (1, 1, 1, 1))
    return (4 * F.avg_pool2d(wide, 2, stride=1)).float()


def _kind(found: Any) -> str:
    return f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else "none"
