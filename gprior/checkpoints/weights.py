"""From a published state dict to a `StyleGAN2`, every tensor read once and by its shape."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from gprior.priors.layers import ROOT2, ready_
from gprior.priors.stylegan2 import StyleGAN2
from gprior.randomness import normal

__all__ = ["State", "Weights", "assemble", "dense", "root", "styled", "torgb"]

DRAWS = 4096  # for a mean style that a file does not have
State = dict[str, Tensor]


class Weights:
    """The tensors of one generator.

    Parameters
    ----------
    tensors : mapping
        Name to tensor.
    layout : str
        Whose names these are, for messages.
    """

    def __init__(self, tensors: Mapping[str, Tensor], layout: str) -> None:
        self.left, self.layout = dict(tensors), layout

    def __contains__(self, name: str) -> bool:
        return name in self.left

    def shape(self, name: str, dims: int) -> tuple[int, ...]:
        """Return the shape of a tensor from which the architecture is derived."""
        if name not in self.left or self.left[name].ndim != dims:
            found = tuple(self.left[name].shape) if name in self.left else "none"
            raise ValueError(
                f"a generator of {self.layout} has a tensor {name} of {dims} dimensions, "
                f"this one has {found}"
            )
        return tuple(self.left[name].shape)

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Return a tensor of this shape, in float32."""
        found = self.left.pop(name, None)
        if found is None or not found.is_floating_point() or tuple(found.shape) != shape:
            what = "none" if found is None else f"{found.dtype} {tuple(found.shape)}"
            raise ValueError(
                f"tensor {name} should be real with shape {shape} in this generator of "
                f"{self.layout}, the file has {what}"
            )
        return found.float()

    def count(self, pattern: str) -> int:
        """Return how many names match a pattern whole."""
        return sum(re.fullmatch(pattern, name) is not None for name in self.left)

    def filters(self, names: Iterable[str], total: float) -> None:
        """Check that resampling filters are [1, 3, 3, 1] along both axes, with this sum."""
        row = torch.tensor([0.125, 0.375, 0.375, 0.125])
        for name in names:
            if not torch.allclose(self(name, 4, 4), total * torch.outer(row, row), atol=1e-4):
                raise ValueError(f"{name} is another filter than [1, 3, 3, 1], which is not read")

    def close(self) -> None:
        """Refuse tensors that nothing asked for: the generator is then another one."""
        if self.left:
            some = ", ".join(repr(name[:60]) for name in sorted(self.left)[:3])
            raise ValueError(
                f"{len(self.left)} tensors are no part of a StyleGAN2 generator of {self.layout} "
                f"({some}): it is a variant; load it with its authors' code and wrap it in a "
                "gprior.priors.Generator"
            )


def dense(state: State, name: str, weight: Tensor, bias: Tensor, gain: float, lr: float) -> None:
    """Add a layer of the mapping network: gains and the factor of the leaky ReLU folded."""
    state[f"{name}.weight"] = weight * (gain * ROOT2)
    state[f"{name}.bias"] = bias * (lr * ROOT2)


def styled(
    state: State,
    name: str,
    weight: Tensor,
    affine: tuple[Tensor, Tensor],
    bias: Tensor,
    noise: tuple[Tensor, Tensor] | None,
) -> None:
    """Add a styled convolution.

    The weight goes in as the origin demodulates it: demodulation removes any factor, and the
    epsilon beside it, 1e-8 everywhere, is relative to this scale.
    """
    state[f"{name}.conv.weight"] = weight
    state[f"{name}.conv.affine.weight"], state[f"{name}.conv.affine.bias"] = affine
    state[f"{name}.bias"] = bias
    if noise is not None:
        state[f"{name}.noise_strength"] = noise[0].reshape(())
        state[f"{name}.noise_const"] = noise[1].reshape(1, 1, *noise[1].shape[-2:])


def torgb(
    state: State, name: str, weight: Tensor, affine: tuple[Tensor, Tensor], bias: Tensor
) -> None:
    """Add a block's output to RGB, its gain folded."""
    state[f"{name}.to_rgb.weight"] = weight
    state[f"{name}.to_rgb.affine.weight"], state[f"{name}.to_rgb.affine.bias"] = affine
    state[f"{name}.rgb_bias"] = bias.flatten()


def assemble(config: dict[str, Any], state: State, w_avg: Tensor | None) -> StyleGAN2:
    """Return the frozen generator of a folded state dict.

    Without ``w_avg`` the mean style is estimated from 4096 latents, the same at every load, and
    the record says so.
    """
    with torch.device("meta"):
        prior = StyleGAN2(**config)
    ours = "mapping_network.w_avg"
    state[ours] = torch.zeros(prior.w_avg.shape) if w_avg is None else w_avg
    for name, wanted in prior.state_dict().items():
        if name not in state or state[name].shape != wanted.shape:
            found = tuple(state[name].shape) if name in state else "none"
            raise ValueError(f"{name} should have shape {tuple(wanted.shape)}, not {found}")
        state[name] = state[name].clone()
    prior.load_state_dict(state, assign=True)
    ready_(prior)
    prior.freeze()
    if w_avg is None:
        z = normal([("w_avg", i) for i in range(DRAWS)], (prior.z_dim,), prior.like)
        prior.mapping_network.w_avg = prior.mapping_network(z).mean(0)
        prior.record["w_avg"] = f"estimated from {DRAWS} latents: the file has none"
    return prior


def root(*sizes: int) -> float:
    """Return 1 / sqrt(fan-in), the equalised gain."""
    return 1 / math.sqrt(math.prod(sizes))
