"""Reads StyleGAN2 of the repository rosinality/stylegan2-pytorch, also inside pSp and e4e.

This code multiplies its weights by 1/sqrt(fan-in) before it demodulates them. The learning-rate
multiplier of its mapping network, 0.01, is not in the file.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gprior.checkpoints.layout import Affine, Layout, equalised_gain
from gprior.checks import InputError
from gprior.priors import StyleGAN2
from gprior.randomness import generator

__all__ = ["from_rosinality"]

LR_MULTIPLIER = 0.01


def from_rosinality(tensors: dict[str, Tensor], latent_avg: Tensor | None) -> StyleGAN2:
    """Return the generator of a state dict.

    Parameters
    ----------
    tensors : dict
        ``g_ema``, or the tensors whose names begin with ``decoder.`` in a file of pSp.
    latent_avg : Tensor or None
        Mean style (w_dim,), or (n, w_dim) with equal rows; with None it is estimated.

    Raises
    ------
    InputError
        If a tensor is missing, has another shape, or is no part of this architecture.
    """
    layout = Rosinality(tensors, latent_avg)
    prior = layout.prior()
    if layout.draws_noise:
        prior.record["noise"] = "maps drawn when the file was loaded: the file has none"
    return prior


class Rosinality(Layout):
    """Tensors with names such as ``convs.0.conv.weight``.

    Block 0 has the convolution ``conv1``, block k > 0 has ``convs.{2k - 2}`` and
    ``convs.{2k - 1}``.
    """

    network = "generator of rosinality/stylegan2-pytorch"

    def __init__(self, tensors: dict[str, Tensor], latent_avg: Tensor | None) -> None:
        super().__init__(tensors)
        self.latent_avg = latent_avg
        self.draws_noise = not any(name.startswith("noises.") for name in tensors)

    def config(self) -> dict[str, Any]:
        """Return the arguments of `StyleGAN2`, derived from the shapes."""
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
        """Return the constant input."""
        return self.read("input.input", 1, width, 4, 4)

    def dense(self, i: int, n_in: int, n_out: int) -> Affine:
        """Return layer i of the mapping network: ``style.{i + 1}``, as style.0 normalises z."""
        weight = self.read(f"style.{i + 1}.weight", n_out, n_in)
        bias = self.read(f"style.{i + 1}.bias", n_out)
        return weight * (LR_MULTIPLIER * equalised_gain(n_in)), bias * LR_MULTIPLIER

    def path(self, k: int, part: str) -> str:
        """Return the name of a layer of block k."""
        if part == "rgb":
            return f"to_rgbs.{k - 1}" if k else "to_rgb1"
        return f"convs.{2 * k - 2 + int(part[-1])}" if k else "conv1"

    def conv(self, path: str, n_in: int, n_out: int) -> Tensor:
        """Return the weight of a styled convolution, with its gain."""
        weight = self.read(f"{path}.conv.weight", 1, n_out, n_in, 3, 3)[0]
        return weight * equalised_gain(n_in, 9)

    def rgb(self, path: str, n_in: int, n_out: int) -> Affine:
        """Return weight, with its gain, and bias of an output to RGB."""
        weight = self.read(f"{path}.conv.weight", 1, n_out, n_in, 1, 1)[0] * equalised_gain(n_in)
        return weight, self.read(f"{path}.bias", 1, n_out, 1, 1).flatten()

    def affine(self, path: str, n_out: int, w_dim: int) -> Affine:
        """Return the layer that computes the styles of a convolution from w."""
        weight = self.read(f"{path}.conv.modulation.weight", n_out, w_dim) * equalised_gain(w_dim)
        return weight, self.read(f"{path}.conv.modulation.bias", n_out)

    def bias(self, path: str, n: int) -> Tensor:
        """Return the bias of a styled convolution, which the file keeps with the activation."""
        return self.read(f"{path}.activate.bias", n)

    def noise(self, path: str, number: int, side: int) -> Affine:
        """Return strength and map of the noise.

        Early files have no maps. They are then drawn, from a seed that depends on ``number``
        alone.
        """
        strength = self.read(f"{path}.noise.weight", 1)
        if self.draws_noise:
            draw = generator("noise", number)
            return strength, torch.randn(side, side, generator=draw, dtype=torch.float32)
        return strength, self.read(f"noises.noise_{number}", 1, 1, side, side)

    def mean(self, w_dim: int) -> Tensor | None:
        """Return ``latent_avg``, which pSp repeats for every layer."""
        if self.latent_avg is None:
            return None
        rows = self.latent_avg.float()
        rows = rows[None] if rows.ndim == 1 else rows
        if rows.ndim != 2 or rows.shape[1] != w_dim or not len(rows) or (rows != rows[:1]).any():
            raise InputError(
                f"latent_avg should have shape ({w_dim},), or (n, {w_dim}) with equal rows, got "
                f"{tuple(self.latent_avg.shape)}"
            )
        return rows[0]

    def close(self) -> None:
        """Check the resampling filters, and refuse the file if other tensors are left."""
        filters = (".blur.kernel", ".upsample.kernel")
        self.check_filters([name for name in self.unread if name.endswith(filters)], 4)
        super().close()
