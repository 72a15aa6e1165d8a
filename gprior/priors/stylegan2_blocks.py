"""The parts of the StyleGAN2 generator: mapping network, styled convolution and block.

Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN"
(arXiv:1912.04958). Several latents per image are those of Poirier-Ginter et al. 2022,
"Overparameterization improves StyleGAN inversion".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from gprior.priors.checks import State
from gprior.priors.initial import random_weights
from gprior.priors.stylegan2_layers import SLOPE, Dense, ModulatedConv, upsample

__all__ = ["Block", "Mapping", "StyledConv", "correlated"]


def pixel_norm(x: Tensor) -> Tensor:
    """Scale vectors (..., n) to unit mean square."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-8)


def correlated(z: Tensor, rows: int) -> Tensor:
    """Return the latents Z_i = (z_i + z_0) / sqrt(2) of the output filters, (B, rows, n).

    Each Z_i is N(0, I), and two of them have the correlation 1/2 because all share z_0, without
    which the training does not succeed (Poirier-Ginter et al. 2022, section 3.1).

    Parameters
    ----------
    z : Tensor
        (B, (rows + 1) n) from N(0, I): z_0, then z_1, ..., z_rows.
    rows : int
        Number of output filters.
    """
    latents = z.reshape(len(z), rows + 1, -1)
    return (latents[:, 1:] + latents[:, :1]) / math.sqrt(2.0)


class Mapping(nn.Module):
    """The mapping network M: (z, c) -> w, and the mean of w for truncation.

    z is (B, z_dim), or (B, rows, z_dim) with one latent per output filter, which M maps one by one.
    """

    w_avg: Tensor

    def __init__(self, z_dim: int, w_dim: int, c_dim: int, num_layers: int) -> None:
        super().__init__()
        self.embed = Dense(c_dim, w_dim) if c_dim else None
        widths = [z_dim + (w_dim if c_dim else 0)] + [w_dim] * num_layers
        self.layers = nn.ModuleList(
            Dense(a, b, lr=0.01, activate=True) for a, b in pairwise(widths)
        )
        self.register_buffer("w_avg", torch.zeros((c_dim, w_dim) if c_dim else (w_dim,)))

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        x = pixel_norm(z)
        if self.embed is not None:
            embedded = pixel_norm(self.embed(c))
            embedded = embedded.view(len(x), *[1] * (x.ndim - 2), -1)
            x = torch.cat([x, embedded.expand(*x.shape[:-1], -1)], -1)
        for layer in self.layers:
            x = layer(x)
        return x


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias, leaky ReLU."""

    noise_const: Tensor | None

    def __init__(
        self, n_in: int, n_out: int, w_dim: int, resolution: int, up: bool, noise: bool
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv(n_in, n_out, w_dim, up=up)
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.resolution = resolution
        self.noise_strength = nn.Parameter(torch.zeros(())) if noise else None
        const = random_weights(1, 1, resolution, resolution) if noise else None
        self.register_buffer("noise_const", const)

    def forward(self, x: Tensor, w: Tensor, noise: str | Tensor, clamp: float | None) -> Tensor:
        y, demod = self.conv(x, w)
        gain = math.sqrt(2.0)  # of the leaky ReLU: cheaper on its small factors and addends
        y = y * (gain if demod is None else (demod * gain).to(y.dtype))
        # Added one after the other: their sum would have another memory order, which is slower.
        y = y.add_((self.bias * gain).to(y.dtype)[:, None, None])
        if self.noise_strength is not None and not (isinstance(noise, str) and noise == "zero"):
            y = y.add_((self.noise_strength * gain).to(y.dtype) * self._noise(noise, y))
        y = F.leaky_relu(y, SLOPE, inplace=True)
        return y if clamp is None else y.clamp(-clamp, clamp)

    def _noise(self, noise: str | Tensor, y: Tensor) -> Tensor:
        if isinstance(noise, Tensor):
            return noise.to(y.dtype)
        if noise == "random":
            return torch.randn(y.shape[0], 1, *y.shape[2:], device=y.device, dtype=y.dtype)
        return self.noise_const.to(y.dtype)  # type: ignore[union-attr]


class Block(nn.Module):
    """The layers of one resolution: (features, rgb) -> (features, rgb)."""

    def __init__(
        self, n_in: int, n_out: int, w_dim: int, resolution: int, img_channels: int, noise: bool
    ) -> None:
        super().__init__()
        first = resolution == 4
        self.conv0 = None if first else StyledConv(n_in, n_out, w_dim, resolution, True, noise)
        self.conv1 = StyledConv(n_out, n_out, w_dim, resolution, False, noise)
        self.to_rgb = ModulatedConv(n_out, img_channels, w_dim, size=1, demodulate=False)
        self.rgb_bias = nn.Parameter(torch.zeros(img_channels))

    def forward(
        self,
        x: Tensor,
        rgb: Tensor | None,
        ws: Tensor,
        noises: Sequence[str | Tensor],
        clamp: float | None,
    ) -> State:
        if self.conv0 is not None:
            x = self.conv0(x, ws[:, 0], noises[0], clamp)
            ws = ws[:, 1:]
        x = self.conv1(x, ws[:, 0], noises[-1], clamp)
        y = self.to_rgb(x, ws[:, 1])[0]
        y = y + self.rgb_bias[:, None, None]  # float32, also under autocast
        if clamp is not None:
            y = y.clamp(-clamp, clamp)
        return x, y if rgb is None else upsample(rgb) + y
