"""StyleGAN2 of the repository rosinality/stylegan2-pytorch, also inside pSp and e4e.

Its weights are used times 1/sqrt(fan-in), demodulation included. The learning-rate multiplier
of the mapping network, 0.01, is not in the file.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gprior.checkpoints.weights import State, Weights, assemble, dense, root, styled, torgb
from gprior.priors.stylegan2 import StyleGAN2
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
    read = Weights(tensors, "rosinality/stylegan2-pytorch")
    log2 = read.count(r"to_rgbs\.\d+\.bias") + 2
    layers = read.count(r"style\.\d+\.weight")
    z_dim = read.shape("style.1.weight", 2)[1]
    w_dim = read.shape(f"style.{layers}.weight", 2)[0]
    widths = [read.shape("input.input", 4)[1]]
    widths += [read.shape(f"convs.{2 * j}.conv.weight", 5)[1] for j in range(log2 - 2)]
    config: dict[str, Any] = {
        "img_resolution": 1 << log2,
        "img_channels": read.shape("to_rgb1.bias", 4)[1],
        "z_dim": z_dim,
        "w_dim": w_dim,
        "num_mapping_layers": layers,
        "widths": widths,
    }
    state: State = {"const": read("input.input", 1, widths[0], 4, 4)}
    for i in range(layers):
        n_in = w_dim if i else z_dim
        weight, bias = (
            read(f"style.{i + 1}.weight", w_dim, n_in),
            read(f"style.{i + 1}.bias", w_dim),
        )
        dense(state, f"mapping_network.layers.{i}", weight, bias, LR * root(n_in), LR)
    drawn = not any(name.startswith("noises.") for name in read.left)
    for k, width in enumerate(widths):
        names = [("conv1", "conv1", 0)]
        if k:
            names = [(f"conv{i}", f"convs.{2 * k - 2 + i}", 2 * k - 1 + i) for i in (0, 1)]
        for ours, theirs, number in names:
            n_in = width if ours == "conv1" else widths[k - 1]
            weight = read(f"{theirs}.conv.weight", 1, width, n_in, 3, 3)[0] * root(n_in, 9)
            side = 4 << k
            noise = (
                _noise(number, side) if drawn else read(f"noises.noise_{number}", 1, 1, side, side)
            )
            strength = read(f"{theirs}.noise.weight", 1)
            bias = read(f"{theirs}.activate.bias", width)
            affine = _affine(read, f"{theirs}.conv", n_in, w_dim)
            styled(state, f"blocks.{k}.{ours}", weight, affine, bias, (strength, noise))
            if ours == "conv0":
                read.filters([f"{theirs}.conv.blur.kernel"], 4)
        theirs, n = f"to_rgbs.{k - 1}" if k else "to_rgb1", config["img_channels"]
        weight = read(f"{theirs}.conv.weight", 1, n, width, 1, 1)[0] * root(width)
        affine = _affine(read, f"{theirs}.conv", width, w_dim)
        torgb(state, f"blocks.{k}", weight, affine, read(f"{theirs}.bias", 1, n, 1, 1))
        if k:
            read.filters([f"{theirs}.upsample.kernel"], 4)
    read.close()
    prior = assemble(config, state, _mean(latent_avg, w_dim))
    if drawn:
        prior.record["noise"] = "maps drawn here: the file has none"
    return prior


def _affine(read: Weights, name: str, n_out: int, w_dim: int) -> tuple[Tensor, Tensor]:
    weight = read(f"{name}.modulation.weight", n_out, w_dim) * root(w_dim)
    return weight, read(f"{name}.modulation.bias", n_out)


def _noise(number: int, side: int) -> Tensor:
    """Return a noise map for the early files that have none, the same at every load."""
    return torch.randn(1, 1, side, side, generator=generator("noise", number))


def _mean(latent_avg: Tensor | None, w_dim: int) -> Tensor | None:
    if latent_avg is None:
        return None
    rows = latent_avg.float()
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[1] != w_dim or not len(rows) or (rows != rows[:1]).any():
        raise ValueError(
            f"latent_avg should be ({w_dim},), or that in equal rows, got {tuple(latent_avg.shape)}"
        )
    return rows[0]
