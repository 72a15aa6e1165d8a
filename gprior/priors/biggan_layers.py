"""Layers of the two BigGAN generators: conditional normalisation, block, self-attention.

Brock, Donahue and Simonyan 2019 (arXiv:1809.11096), figures 15 and 16. Self-attention follows
Zhang et al. 2019, "Self-attention generative adversarial networks" (arXiv:1805.08318).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from gprior.priors.initial import random_weights

__all__ = ["Attention", "Block", "Norm"]


class Norm(nn.Module):
    """Batch normalisation with stored statistics, then a ReLU.

    Gain and bias are an affine function of a condition, or constants if there is none. The
    statistics have one row, or one row for each truncation on a uniform grid over [0, 1].
    """

    mean: Tensor
    var: Tensor

    def __init__(self, width: int, cond: int, n_stats: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(random_weights(2 * width, cond, divisor=50.0)) if cond else None
        self.bias = nn.Parameter(torch.tensor([1.0, 0.0]).repeat_interleave(width))
        self.register_buffer("mean", torch.zeros(n_stats, width))
        self.register_buffer("var", torch.ones(n_stats, width))

    def forward(self, x: Tensor, cond: Tensor, truncation: float) -> Tensor:
        both = self.bias[None]
        if self.weight is not None:
            both = F.linear(cond, self.weight, self.bias)
        gain, bias = both[:, :, None, None].chunk(2, 1)
        mean, var = self._at(self.mean, truncation), self._at(self.var, truncation)
        scale = gain * torch.rsqrt(var + self.eps)[:, None, None]
        return torch.addcmul(bias - mean[:, None, None] * scale, x, scale).relu()

    def _at(self, stats: Tensor, truncation: float) -> Tensor:
        """Return the statistics at a truncation, interpolated between two rows.

        Two choices are those of the published code, because the published images and scores
        were made with it: the nearer row has the smaller weight, and the position is a
        quotient of rounded numbers, which puts 0.58 into the bin below the one where it
        belongs.
        """
        if len(stats) == 1:
            return stats[0]
        part, k = math.modf(truncation / (1.0 / (len(stats) - 1)))
        row = int(k)
        if part == 0:
            return stats[row]
        return stats[row] * part + stats[row + 1] * (1 - part)


class Attention(nn.Module):
    """Self-attention x + o(softmax(q k) v), with keys and values at half the resolution.

    The weights of o include the published scale gamma.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(width, width // 8, 1, bias=False)
        self.key = nn.Conv2d(width, width // 8, 1, bias=False)
        self.value = nn.Conv2d(width, width // 2, 1, bias=False)
        self.out = nn.Conv2d(width // 2, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, _, H, W = x.shape
        q = self.query(x).flatten(2)
        k, v = (F.max_pool2d(part(x), 2).flatten(2) for part in (self.key, self.value))
        share = torch.softmax(q.transpose(1, 2) @ k, -1)  # (B, H W, H W / 4)
        y = (v @ share.transpose(1, 2)).view(B, -1, H, W)
        return torch.add(x, self.out(y))


class Block(nn.Module):
    """A residual block of either generator, followed by self-attention if it has one.

    A deep block has four convolutions 1x1, 3x3, 3x3, 1x1 through a quarter of the width, and a
    shortcut that drops channels. The other kind has two 3x3 convolutions, and a 1x1
    convolution as its shortcut.

    With ``up``, pixels are doubled before the first 3x3 convolution. The two steps are computed
    as one transposed convolution with a 4x4 kernel, which takes less than half of the
    arithmetic. In the shortcut, pixels are doubled last, which commutes with the 1x1
    convolution.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        cond: int,
        up: bool,
        attend: bool,
        deep: bool,
        n_stats: int,
        eps: float,
    ) -> None:
        super().__init__()
        mid = n_in // 4
        widths = [n_in, mid, mid, mid, n_out] if deep else [n_in, n_out, n_out]
        sizes = [1, 3, 3, 1] if deep else [3, 3]
        self.up, self.n_out = up, n_out
        self.norms = nn.ModuleList(Norm(n, cond, n_stats, eps) for n in widths[:-1])
        self.convs = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1)
            if up and k == sizes.index(3)
            else nn.Conv2d(a, b, size, padding=size // 2)
            for k, ((a, b), size) in enumerate(zip(pairwise(widths), sizes, strict=True))
        )
        self.shortcut = None if deep else nn.Conv2d(n_in, n_out, 1)
        self.attention = Attention(n_out) if attend else None

    def forward(self, x: Tensor, cond: Tensor, truncation: float) -> Tensor:
        y = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = conv(norm(y, cond, truncation))
        short = x[:, : self.n_out] if self.shortcut is None else self.shortcut(x)
        y = y + (F.interpolate(short, scale_factor=2.0) if self.up else short)
        return y if self.attention is None else self.attention(y)
