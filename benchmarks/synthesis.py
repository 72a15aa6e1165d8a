"""Time one gradient step through StyleGAN2: shared weights against per-sample weights.

    python benchmarks/synthesis.py

Published implementations scale the weights of every convolution by each image's style
and run a grouped convolution; gradients with respect to styles then pass through
gradients with respect to weights. That form is written out here as the reference, with
the two ways in which the implementations apply the FIR filter [1, 3, 3, 1] on a CPU:
"rosinality" filters every channel as a separate image (the code under ILO, PULSE and SPHInX),
and "NVIDIA" uses one depthwise convolution (under the projector, BRGM and L-BRGM).

Before any timing, all forms must be the same function (in float64: images to 1e-4, gradients to
1e-4 of their norm) and make the same images in float32. They are timed in float32, in turns, with
the same weights, styles and loss. Gradients in float32 differ by more than 1e-4, because rounding
moves a few activations of a hundred million across the kink of the leaky ReLU; without that kink
they agree to 3e-6.

The last number is the time that the arithmetic of the convolutions takes at the speed of a matrix
product on this machine. A form that uses no fast algorithm for convolutions cannot be faster.
"""

from __future__ import annotations

import argparse
import copy
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.priors import ModulatedConv, StyleGAN2, fold_, ready_
from gprior.priors.stylegan2_blocks import StyledConv

TOLERANCE = 1e-4
REQUIRED = 2.5  # times faster at 256 pixels, batch 1, one thread


def resample(x: Tensor, pad: tuple[int, int], gain: float, apart: bool, up: int = 1) -> Tensor:
    """Insert zeros, pad and filter by [1, 3, 3, 1].

    With ``apart`` every channel is an image of its own, otherwise the convolution is depthwise.
    """
    B, C, H, W = x.shape
    if up > 1:
        x = F.pad(x.reshape(B, C, H, 1, W, 1), (0, up - 1, 0, 0, 0, up - 1))
        x = x.reshape(B, C, H * up, W * up)
    row = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8 * math.sqrt(gain)
    kernel = torch.outer(row, row)[None, None]
    x = F.pad(x, (*pad, *pad))
    if apart:
        y = F.conv2d(x.reshape(B * C, 1, *x.shape[2:]), kernel)
        return y.reshape(B, C, *y.shape[2:])
    return F.conv2d(x, kernel.expand(C, 1, 4, 4), groups=C)


def per_sample(conv: ModulatedConv, x: Tensor, w: Tensor, apart: bool) -> Tensor:
    """Modulated convolution with one weight per image, by a grouped convolution."""
    B, n_in, H, W = x.shape
    n_out, _, size, _ = conv.weight.shape
    weight = conv.weight * conv.affine(w)[:, None, :, None, None]  # (B, O, I, k, k)
    if conv.demodulate:
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + conv.eps)
    x = x.reshape(1, B * n_in, H, W)
    if conv.up:
        kernel = weight.transpose(1, 2).reshape(B * n_in, n_out, size, size)
        y = F.conv_transpose2d(x, kernel, stride=2, groups=B)
        return resample(y.reshape(B, n_out, *y.shape[2:]), (1, 1), 4, apart)
    y = F.conv2d(x, weight.reshape(B * n_out, n_in, size, size), padding=size // 2, groups=B)
    return y.reshape(B, n_out, H, W)


def styled(layer: StyledConv, x: Tensor, w: Tensor, apart: bool) -> Tensor:
    """Per-sample convolution, noise, bias, leaky ReLU."""
    y = per_sample(layer.conv, x, w, apart)
    y = y + layer.noise_strength * layer.noise_const + layer.bias[:, None, None]
    return F.leaky_relu(y, 0.2) * math.sqrt(2)


def reference(G: StyleGAN2, ws: Tensor, apart: bool) -> Tensor:
    """Synthesis in the published form, with the weights of ``G``."""
    x, rgb = G.const.expand(len(ws), -1, -1, -1), None
    for k, block in enumerate(G.blocks):
        first = max(2 * k - 1, 0)
        if block.conv0 is not None:
            x = styled(block.conv0, x, ws[:, first], apart)
            first += 1
        x = styled(block.conv1, x, ws[:, first], apart)
        y = per_sample(block.to_rgb, x, ws[:, first + 1], apart) + block.rgb_bias[:, None, None]
        rgb = y if rgb is None else resample(rgb, (2, 1), 4, apart, up=2) + y
    return rgb


def gradient(form: Callable[[Tensor], Tensor], ws: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the image and the gradient of a squared error with respect to the styles."""
    ws = ws.detach().requires_grad_()
    image = form(ws)
    (grad,) = torch.autograd.grad((image - target).square().mean(), ws)
    return image.detach(), grad


def arithmetic(G: StyleGAN2, batch: int) -> float:
    """Return the floating point operations of a forward pass and of the gradient of its input."""
    total = 0
    for layer in G.modules():
        if isinstance(layer, StyledConv):
            side = layer.resolution // (2 if layer.conv.up else 1)  # of the input
            total += 2 * layer.conv.weight.numel() * side**2
    return 2.0 * batch * total


def machine_speed() -> float:
    """Return operations per second of a 1024 x 1024 matrix product, the best of ten."""
    a = torch.randn(1024, 1024)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * 1024**3 / min(times)


def difference(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Return how far images (absolute) and gradients (relative to their norm) are apart."""
    return float((a[0] - b[0]).abs().max()), float((a[1] - b[1]).norm() / b[1].norm())


def same_function(G: StyleGAN2, ws: Tensor, target: Tensor) -> bool:
    """Check in float64, on the first image, that the forms are one function."""
    fine = copy.deepcopy(G).double()
    ready_(fine)
    ws, target = ws[:1].double(), target[:1].double()
    off = difference(
        gradient(fine.synthesis, ws, target),
        gradient(lambda w: reference(fine, w, False), ws, target),
    )
    print(f"  float64: image {off[0]:.1e}, gradient {off[1]:.1e}")
    return max(off) <= TOLERANCE


def compare(resolution: int, batch: int, threads: int, repeats: int) -> tuple[float, bool]:
    """Check that the forms agree and time them in turns.

    Returns
    -------
    ratio : float
        Time of rosinality's form over gprior's.
    agree : bool
        Whether all forms agree.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    G = StyleGAN2(resolution, 3)
    for layer in G.modules():
        if isinstance(layer, StyledConv):
            layer.noise_strength.data.fill_(0.1)
    fold_(G)
    G.freeze()
    ws = G.mapping(torch.randn(batch, 512)).contiguous()
    target = torch.zeros(batch, 3, resolution, resolution)
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "gprior": G.synthesis,
        "rosinality": lambda ws: reference(G, ws, True),
        "NVIDIA": lambda ws: reference(G, ws, False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    agree = same_function(G, ws, target)
    image, grad = gradient(G.synthesis, ws, target)
    for turn in range(repeats + 1):  # the first turn warms up and is compared, not timed
        for name, form in forms.items():
            start = time.perf_counter()
            image0, grad0 = gradient(form, ws, target)
            if turn:
                seconds[name].append(time.perf_counter() - start)
            elif name != "gprior":
                off = difference((image, grad), (image0, grad0))
                agree = agree and off[0] <= TOLERANCE
                print(f"  float32, off {name}: image {off[0]:.1e}, gradient {off[1]:.1e}")
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    floor = arithmetic(G, batch) / machine_speed()
    print(
        f"{resolution:5d} px  batch {batch}  {threads} threads   "
        + "   ".join(f"{name} {t * 1e3:6.0f} ms" for name, t in middle.items())
        + f"   arithmetic {floor * 1e3:5.0f} ms   ratios "
        + " ".join(f"{middle[name] / middle['gprior']:4.2f}" for name in list(forms)[1:])
        + f"   {'agree' if agree else 'DISAGREE'}",
        flush=True,
    )
    return middle["rosinality"] / middle["gprior"], agree


def main() -> int:
    """Print the table; return 1 if the forms disagree or the required ratio is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="check that the script works")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of each (default 7)")
    args = parser.parse_args()
    repeats = 1 if args.quick else args.repeats
    print(f"torch {torch.__version__}, Python {platform.python_version()}, float32 eager, CPU,")
    print(f"full channels, medians of {repeats} interleaved repetitions")
    rows = {
        (resolution, batch, threads): compare(resolution, batch, threads, repeats)
        for resolution, batch in (((16, 1),) if args.quick else ((256, 1), (64, 8)))
        for threads in ((1,) if args.quick else (1, 2))
    }
    agree = all(same for _, same in rows.values())
    return 0 if agree and (args.quick or rows[256, 1, 1][0] >= REQUIRED) else 1


if __name__ == "__main__":
    sys.exit(main())
