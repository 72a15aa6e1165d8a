"""The residual discriminator of StyleGAN2, whose features also measure perceptual distance."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gprior.priors.checks import check_sizes
from gprior.priors.stylegan2_layers import Conv, Dense, channels

__all__ = ["Discriminator"]


class ResidualBlock(nn.Module):
    """Two convolutions beside a 1x1 skip, at half the resolution (Karras et al. 2020, figure 7)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv0 = Conv(n_in, n_in, 3)
        self.conv1 = Conv(n_in, n_out, 3, down=True)
        self.skip = Conv(n_in, n_out, 1, down=True, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = (self.conv1(self.conv0(x)) + self.skip(x)) * math.sqrt(0.5)
        return y


class Discriminator(nn.Module):
    """D(image, c) -> logits (B,), with minibatch standard deviation and class projection.

    Parameters
    ----------
    img_resolution, img_channels, c_dim, channel_base, channel_max
        As for `gprior.priors.StyleGAN2`.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        c_dim: int = 0,
        channel_base: int = 32768,
        channel_max: int = 512,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            k: v for k, v in locals().items() if k not in ("self", "__class__")
        }
        sizes = {**self.config, "z_dim": 1, "w_dim": 1, "num_mapping_layers": 1}
        log2 = check_sizes(sizes)
        self.config = {name: sizes[name] for name in self.config}
        widths = [channels(2**k, channel_base, channel_max) for k in range(log2, 1, -1)]
        self.from_rgb = Conv(img_channels, widths[0], 1)
        self.blocks = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(widths))
        last = widths[-1]
        self.conv = Conv(last + 1, last, 3)
        self.dense = Dense(last * 16, last, activate=True)
        self.out = Dense(last, max(c_dim, 1))

    def features(self, raw: Tensor) -> list[Tensor]:
        """Return the features after each residual block, finest first.

        ``raw`` is (B, C, H, W) in [-1, 1]. The features of an image do not depend on the other
        images of the batch.
        """
        x = self.from_rgb(raw.contiguous(memory_format=torch.channels_last))
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps

    def forward(self, raw: Tensor, c: Tensor | None = None) -> Tensor:
        """Return logits (B,), higher for real images; ``raw`` is (B, C, H, W) in [-1, 1]."""
        return self.judge(self.features(raw)[-1], c)

    def judge(self, x: Tensor, c: Tensor | None = None, deviation: float | None = None) -> Tensor:
        """Return logits (B,) computed from the last map of `features`.

        A ``deviation`` replaces the standard deviation over the images of the batch. Then each
        image is judged for itself.
        """
        shape = (len(x), 1, *x.shape[2:])
        std = minibatch_std(x.float()) if deviation is None else x.new_full(shape, deviation)
        x = self.conv(torch.cat([x, std.to(x.dtype)], 1))
        logits = self.out(self.dense(x.flatten(1)))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total: Tensor = logits.sum(1) if c is None else (logits * c).sum(1)
        return total


def minibatch_std(x: Tensor, group: int = 4) -> Tensor:
    """Return the standard deviation over groups of images, averaged to one map (B, 1, H, W).

    It makes an image depend on the others of its batch, so searches use a typical value of it.
    """
    size = group if x.shape[0] % group == 0 else x.shape[0]
    grouped = x.reshape(size, -1, *x.shape[1:])
    std = (grouped.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    return std.repeat(size)[:, None, None, None].expand(-1, 1, *x.shape[2:])
