"""Layers that the StyleGAN2 generator and discriminator share.

Equalised learning rate (Karras et al. 2018, "Progressive growing of GANs"): a
layer stores a weight of unit variance and multiplies it by ``gain``. Loaded
priors are frozen with the gain folded into the weight once (`Scaled.fold_`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from gprior.checks import InputError
from gprior.priors.initial import random_weights

__all__ = ["Conv", "Dense", "ModulatedConv", "blur", "channels", "fold_", "ready_", "upsample"]

SLOPE = 0.2
ROOT2 = math.sqrt(2.0)


def channels(resolution: int, base: int, most: int) -> int:
    """Return the number of feature maps at a resolution: base / resolution, at most ``most``."""
    return max(min(base // resolution, most), 1)


def blur(x: Tensor, pad: int, gain: float = 1.0, stride: int = 1) -> Tensor:
    """Apply the FIR [1, 3, 3, 1] / 8 along both axes, after ``pad`` zeros on each side.

    The result is multiplied by ``gain``. It is computed by one depthwise convolution: on a CPU
    and with its gradient, this is ten times faster than sums of shifted slices.
    """
    n = x.shape[1]
    row = x.new_tensor([0.125, 0.375, 0.375, 0.125]) * math.sqrt(gain)
    kernel = torch.outer(row, row).expand(n, 1, 4, 4)
    return F.conv2d(x, kernel, padding=pad, stride=stride, groups=n)


def upsample(x: Tensor) -> Tensor:
    """Double height and width with the FIR [1, 3, 3, 1] / 4.

    Its two phases, (x[i-1] + 3 x[i]) / 4 and (3 x[i] + x[i+1]) / 4, are those of linear
    interpolation of the zero-padded image.
    """
    wide = F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="bilinear")
    return wide[..., 2:-2, 2:-2]


class Scaled(nn.Module):
    """A layer whose weight has unit variance at initialisation and is used times ``gain``.

    If the layer has a leaky ReLU, the gain includes its factor sqrt(2), because a positive
    factor can be applied before a leaky ReLU as well as after it.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        shape: tuple[int, ...],
        lr: float = 1.0,
        bias: float | None = 0.0,
        activate: bool = False,
    ) -> None:
        super().__init__()
        self.activate = activate
        self.bias_gain = lr * (ROOT2 if activate else 1.0)
        self.gain = self.bias_gain / math.sqrt(math.prod(shape[1:]))
        self.weight = nn.Parameter(random_weights(*shape, divisor=lr))
        self.bias = None if bias is None else nn.Parameter(torch.full((shape[0],), bias / lr))

    def scaled(self) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias as the layer applies them."""
        if self.gain == 1.0 and self.bias_gain == 1.0:
            return self.weight, self.bias
        bias = None if self.bias is None else self.bias * self.bias_gain
        return self.weight * self.gain, bias

    def act(self, y: Tensor) -> Tensor:
        """Apply the layer's leaky ReLU, if it has one."""
        return F.leaky_relu(y, SLOPE) if self.activate else y

    @torch.no_grad()
    def fold_(self) -> None:
        """Multiply weight and bias by their gains, once for all calls."""
        weight, bias = self.scaled()
        self.weight.data = weight.clone()
        if self.bias is not None and bias is not None:
            self.bias.data = bias.clone()
        self.ready_()

    def ready_(self) -> None:
        """Declare weight and bias as folded, and store them in the fastest memory order."""
        self.gain = self.bias_gain = 1.0
        if self.weight.ndim == 4:
            self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last)


def fold_(net: nn.Module) -> None:
    """Fold the gains of every layer of a network after its training."""
    for module in net.modules():
        if isinstance(module, Scaled):
            module.fold_()


def ready_(net: nn.Module) -> None:
    """Declare the weights of every layer as folded, as they are in a checkpoint."""
    for module in net.modules():
        if isinstance(module, Scaled):
            module.ready_()


class Dense(Scaled):
    """A fully connected layer (..., in) -> (..., out)."""

    def __init__(
        self, n_in: int, n_out: int, lr: float = 1.0, bias: float = 0.0, activate: bool = False
    ) -> None:
        super().__init__((n_out, n_in), lr, bias, activate)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(F.linear(x, *self.scaled()))


class Conv(Scaled):
    """A convolution (B, I, H, W) -> (B, O, H, W); ``down`` halves height and width."""

    def __init__(
        self, n_in: int, n_out: int, size: int, down: bool = False, activate: bool = True
    ) -> None:
        super().__init__((n_out, n_in, size, size), 1.0, 0.0 if activate else None, activate)
        self.down, self.pad = down, size // 2

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.scaled()
        if self.pad == 0:  # 1x1: a product of matrices, on the pixels that stay
            x = blur(x, 1, stride=2) if self.down else x
            y = F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias)
            return self.act(y).permute(0, 3, 1, 2)
        if self.down:
            return self.act(F.conv2d(blur(x, self.pad + 1), weight, bias, stride=2))
        return self.act(F.conv2d(x, weight, bias, padding=self.pad))


class ModulatedConv(Scaled):
    """Convolution with weights that are scaled by a style (Karras et al. 2020, section 2.2).

    With one style per image, scaling the input channels of the weights equals scaling the
    input, and demodulation (their eq. 3) equals scaling the output::

        y = d * conv(s * x, W),   d_o = 1 / sqrt(sum_i s_i^2 sum_k W_oik^2 + eps)

    So the whole batch shares one weight, and gradients with respect to styles never pass
    through weights.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        w_dim: int,
        size: int = 3,
        up: bool = False,
        demodulate: bool = True,
        eps: float = 1e-8,
    ) -> None:
        super().__init__((n_out, n_in, size, size), bias=None)
        self.affine = Dense(w_dim, n_in, bias=1.0)
        self.up, self.demodulate, self.eps = up, demodulate, eps

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the convolution and the demodulation (B, O, 1, 1), which are to be multiplied.

        x is (B, I, H, W) and w is (B, w_dim). With one style per output filter, w is
        (B, rows, w_dim); then the demodulation is already applied, and None is returned.
        """
        style = self.affine(w)
        weight, _ = self.scaled()
        if w.ndim == 3:
            return filterwise(
                x, style, weight, self.up, self.eps if self.demodulate else None
            ), None
        scale = style[:, :, None, None]
        if weight.shape[-1] == 1:
            y = pointwise(x, weight.flatten(1) * style[:, None])
        elif self.up:
            y = blur(F.conv_transpose2d(x * scale, weight.transpose(0, 1), stride=2), 1, 4.0)
        else:
            y = F.conv2d(x * scale, weight, padding=weight.shape[-1] // 2)
        if not self.demodulate:
            return y, None
        power = weight.square().sum((2, 3))
        demod = torch.rsqrt(style.square() @ power.t() + self.eps)
        return y, demod[:, :, None, None]


def pointwise(x: Tensor, matrices: Tensor) -> Tensor:
    """Mix the channels of images x (B, I, H, W) by matrices (B, O, I), one per image.

    A convolution to one or three channels would copy x into another memory order. A product of
    matrices does not, and its gradient has the memory order of x.
    """
    if x.is_contiguous(memory_format=torch.channels_last):
        y = (x.permute(0, 2, 3, 1).flatten(1, 2) @ matrices.mT).mT
    else:
        y = matrices @ x.flatten(2)
    return y.reshape(*y.shape[:2], *x.shape[2:])


def filterwise(x: Tensor, style: Tensor, weight: Tensor, up: bool, eps: float | None) -> Tensor:
    """Modulated convolution with one style per output filter, and weights for each image.

    Row i of style (B, rows, I) scales output filter i; rows beyond the O filters of the layer
    are dropped (Poirier-Ginter et al. 2022, "Overparameterization improves StyleGAN
    inversion", section 3). Here the images of a batch cannot share one weight.
    """
    B, n_out, size = x.shape[0], weight.shape[0], weight.shape[-1]
    if style.shape[1] < n_out:
        raise InputError(
            f"ws has {style.shape[1]} rows per layer, but a layer has {n_out} filters; "
            f"give at least {n_out} rows"
        )
    weights = weight * style[:, :n_out, :, None, None]  # (B, O, I, k, k)
    if eps is not None:
        weights = weights * torch.rsqrt(weights.square().sum((2, 3, 4), keepdim=True) + eps)
    grouped = x.reshape(1, -1, *x.shape[2:])
    if up:
        kernel = weights.transpose(1, 2).reshape(-1, n_out, size, size)  # (B I, O, k, k)
        y = F.conv_transpose2d(grouped, kernel, stride=2, groups=B)
        return blur(y.reshape(B, n_out, *y.shape[2:]), 1, 4.0)
    y = F.conv2d(grouped, weights.flatten(0, 1), padding=size // 2, groups=B)
    return y.reshape(B, n_out, *y.shape[2:])
