"""StyleGAN2 of the repository rosinality/stylegan2-pytorch, also inside pSp and e4e.

Its weights are used times 1/sqrt(fan-in), demodulation included. The learning-rate multiplier
of the mapping network, 0.01, is not in the file.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gprior.checkpoints.layout import Affine, Layout, root
from gprior.checks import InputError
from gprior.priors import StyleGAN2
from gprior.randomness import generator

__all__ = ["from_rosinality"]

LR = 0.01


def from_rosinality(tensors: dict[str, Tensor], latent_avg: Tensor | None) -> StyleGAN2:
    """Return the generator of a state dict.

    Parameters
    ----------
    tensors : dict
        ``g_ema``, or what stands after ``decoder.`` in a file of pSp.
    latent_avg : Tensor or None
        Mean style (w_dim,), or (n, w_dim) with equal rows; None estimates it.

    Raises
    ------
    ValueError
        If a tensor is missing, of another shape, or no part of this architecture.
    """
    layout = Rosinality(tensors, latent_avg)
    prior = layout.prior()
    if layout.drawn:
        prior.record["noise"] = "maps drawn here: the file has none"
    return prior


class Rosinality(Layout):
    """Names as ``convs.0.conv.weight``; block k > 0 has convs 2k - 2 and 2k - 1."""

    project = "rosinality/stylegan2-pytorch"

    def __init__(self, tensors: dict[str, Tensor], latent_avg: Tensor | None) -> None:
        super().__init__(tensors)
        self.latent_avg = latent_avg
        self.drawn = not any(name.startswith("noises.") for name in tensors)

    def config(self) -> dict[str, Any]:
        """Return what the shapes say."""
        blocks = self.count(r"to_rgbs\.\d+\.bias") + 1
        layers = self.count(r"style\.\d+\.weight")
        convs = (self.shape(f"convs.{2 * j}.conv.weight", 5)[1] for j in range(blocks - 1))
        return {
            "img_resolution": 2 << blocks,
            "img_channels": self.shape("to_rgb1.bias", 4)[1],
            "z_dim": self.shape("style.1.weight", 2)[1],
            "w_dim": self.shape(f"style.{layers}.weight", 2)[0],
            "num_mapping_layers": layers,
            "widths": [self.shape("input.input", 4)[1], *convs],
        }

    def const(self, width: int) -> Tensor:
        """Return input.input."""
        return self.read("input.input", 1, width, 4, 4)

    def dense(self, i: int, n_in: int, n_out: int) -> Affine:
        """Return style.1, ...: style.0 is the normalisation."""
        weight = self.read(f"style.{i + 1}.weight", n_out, n_in)
        return weight * (LR * root(n_in)), self.read(f"style.{i + 1}.bias", n_out) * LR

    def path(self, k: int, part: str) -> str:
        """Return the name of a layer."""
        if part == "rgb":
            return f"to_rgbs.{k - 1}" if k else "to_rgb1"
        return f"convs.{2 * k - 2 + int(part[-1])}" if k else "conv1"

    def conv(self, path: str, n_in: int, n_out: int) -> Tensor:
        """Return the weight with its gain."""
        return self.read(f"{path}.conv.weight", 1, n_out, n_in, 3, 3)[0] * root(n_in, 9)

    def rgb(self, path: str, n_in: int, n_out: int) -> Affine:
        """Return weight with gain, and bias."""
        weight = self.read(f"{path}.conv.weight", 1, n_out, n_in, 1, 1)[0] * root(n_in)
        return weight, self.read(f"{path}.bias", 1, n_out, 1, 1).flatten()

    def affine(self, path: str, n_out: int, w_dim: int) -> Affine:
        """Return the modulation."""
        weight = self.read(f"{path}.conv.modulation.weight", n_out, w_dim) * root(w_dim)
        return weight, self.read(f"{path}.conv.modulation.bias", n_out)

    def bias(self, path: str, n: int) -> Tensor:
        """Return the bias of the activation."""
        return self.read(f"{path}.activate.bias", n)

    def noise(self, path: str, number: int, side: int) -> Affine:
        """Return strength and map; early files have no maps, so they are drawn, always the same."""
        strength = self.read(f"{path}.noise.weight", 1)
        if self.drawn:
            return strength, torch.randn(side, side, generator=generator("noise", number))
        return strength, self.read(f"noises.noise_{number}", 1, 1, side, side)

    def mean(self, w_dim: int) -> Tensor | None:
        """Return latent_avg, which pSp repeats for every layer."""
        if self.latent_avg is None:
            return None
        rows = self.latent_avg.float()
        rows = rows[None] if rows.ndim == 1 else rows
        if rows.ndim != 2 or rows.shape[1] != w_dim or not len(rows) or (rows != rows[:1]).any():
            raise InputError(
                f"latent_avg should be ({w_dim},), or that in equal rows, got "
                f"{tuple(self.latent_avg.shape)}"
            )
        return rows[0]

    def close(self) -> None:
        """Check the filters; refuse what is left."""
        self.filters([n for n in self.left if n.endswith((".blur.kernel", ".upsample.kernel"))], 4)
        super().close()
