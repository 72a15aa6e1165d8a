"""Shift, scale and brightness of images, and a prior whose images are transformed.

T maps a generated image to the frame of the measurement::

    (T x)(u) = γ x((u - t) / s),     φ = (log s_x, log s_y, t_x, t_y, log γ)

with u in [-1, 1]² over the image. So t is in units of half the image's width or height, positive
towards the right and down, and s > 1 enlarges. The inverse is φ⁻¹ = (-log s, -t / s, -log γ).
Interpolation is bilinear. Where T shrinks, the kernel is widened to the area that a pixel covers,
to avoid aliasing. This is the transform of Huh et al. 2020, arXiv:2005.01703, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gprior.priors import Prior, Wrapped

__all__ = ["Transformed", "covered", "inverse", "resample", "transform"]


def transform(x: Tensor, phi: Tensor) -> Tensor:
    """Return the transformed images T x.

    Outside x, the pixels of its border are repeated.

    Parameters
    ----------
    x : Tensor
        Images (R, C, H, W).
    phi : Tensor
        One transform per image, (R, 5): (log s_x, log s_y, t_x, t_y, log γ).

    Returns
    -------
    Tensor
        Images (R, C, H, W).

    Examples
    --------
    >>> x = torch.zeros(1, 1, 4, 4)
    >>> x[..., 1, 1] = 1.0
    >>> phi = torch.tensor([[0.0, 0.0, 0.5, 0.0, 0.0]])  # a quarter of the width: 1 pixel
    >>> transform(x, phi)[0, 0, 1].tolist()
    [0.0, 0.0, 1.0, 0.0]
    """
    return phi[:, 4, None, None, None].exp() * resample(x, phi)


def inverse(phi: Tensor) -> Tensor:
    """Return φ⁻¹ (R, 5), which undoes T where no pixel left the frame."""
    shift = -phi[:, 2:4] * (-phi[:, :2]).exp()
    return torch.cat([-phi[:, :2], shift, -phi[:, 4:]], 1)


def covered(phi: Tensor, size: Sequence[int]) -> Tensor:
    """Return the pixels of T x that lie within x.

    Parameters
    ----------
    phi : Tensor
        Transforms (R, 5).
    size : sequence of 2 int
        Height and width of the images in pixels.

    Returns
    -------
    Tensor
        Mask (R, 1, H, W): 1 within x, 0 elsewhere.
    """
    x, y = _sources(phi, size)
    inside = (y.abs() <= 1)[:, :, None] & (x.abs() <= 1)[:, None, :]
    return inside[:, None].to(phi)


def _sources(phi: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return where the columns (R, W) and rows (R, H) of T x are in x, which is [-1, 1]."""
    sources = []
    for axis, n in enumerate((size[1], size[0])):
        u = (torch.arange(n, device=phi.device, dtype=phi.dtype) + 0.5) * 2 / n - 1
        sources.append((u - phi[:, 2 + axis, None]) * (-phi[:, axis, None]).exp())
    return sources[0], sources[1]


def resample(x: Tensor, phi: Tensor) -> Tensor:
    """Return T x without the change of brightness, for images x (R, C, H, W) and φ (R, 5).

    The columns and the rows of x are resampled one after the other.
    """
    columns, rows = _sources(phi, x.shape[2:])
    by_column, by_row = _interpolation(columns, phi[:, 0]), _interpolation(rows, phi[:, 1])
    return by_row[:, None] @ x @ by_column.transpose(1, 2)[:, None]


def _interpolation(sources: Tensor, log_scale: Tensor) -> Tensor:
    """Return the weights (R, n, n) of the n pixels of x for positions (R, n) between them.

    The weights are triangles as wide as a pixel of T x, which is bilinear interpolation, or a wider
    average where T shrinks.
    """
    n = sources.shape[1]
    at = ((sources + 1) * n / 2 - 0.5).clamp(0, n - 1)
    pixels = torch.arange(n, device=sources.device, dtype=sources.dtype)
    width = (-log_scale).exp().clamp_min(1)[:, None, None]
    weights = (1 - (at[:, :, None] - pixels).abs() / width).clamp_min(0)
    return weights / weights.sum(2, keepdim=True)


class Transformed(Wrapped):
    """A prior whose images are transformed, for codes that have a ``transform``.

    Parameters
    ----------
    base : Prior
        The prior that generates the images. It receives all inputs except ``transform``.

    Examples
    --------
    >>> import gprior
    >>> prior = Transformed(gprior.load_prior("phantom-64"))
    >>> z, c = prior.draw([(0, "z")]), prior.classes(0, 1)
    >>> prior(z=z, c=c, transform=torch.zeros(1, 5)).shape
    torch.Size([1, 1, 64, 64])
    """

    def __init__(self, base: Prior) -> None:
        super().__init__(base)
        self.inputs = base.inputs | {"transform"}

    def forward(self, transform: Tensor, **inputs: Any) -> Tensor:  # type: ignore[override]
        """Return T G(inputs).

        Parameters
        ----------
        transform : Tensor
            φ (R, 5).
        **inputs
            Inputs of the base prior.

        Returns
        -------
        Tensor
            Images (R, C, H, W).
        """
        return _transform(self.base(**inputs), transform)


_transform = transform  # the argument of `Transformed.forward` hides the name `transform`
