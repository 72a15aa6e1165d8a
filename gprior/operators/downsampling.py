"""Downsampling (super-resolution): filter, then keep every factor-th pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from gprior.checks import InputError, integer
from gprior.operators.base import Operator, checked_img_size
from gprior.randomness import in_plain_mode

__all__ = ["Downsampling"]

_FILTERS = ("bicubic", "bilinear", "gaussian", "box", "nearest")
_PADDINGS = ("circular", "reflect", "replicate", "constant", "valid")


class Downsampling(Operator):
    r"""Filter an image and keep every ``factor``-th pixel: :math:`y = \sum_r V_r x H_r^\top`.

    A separable filter followed by decimation is one matrix acting on the columns and one on
    the rows; padding is part of the matrices. Two small products replace the convolution at
    full resolution, the transpose is exact for every padding and size, and the pseudo-inverse
    is :math:`V^+ y H^{+\top}`. A tensor filter of numerical rank r is a sum of r such terms.

    Named filters sum to one (so a constant image keeps its value), which bounds the norm of
    A by 1; it is about 1 / factor, and exactly 1 for ``"nearest"``.

    Parameters
    ----------
    img_size : sequence of int
        Shape (C, H, W) of one image.
    factor : int
        Every ``factor``-th row and column is kept, from the first on. Sizes that are not
        multiples round up: y has ceil(H / factor) rows.
    filter : str or Tensor
        - ``"bicubic"`` (Keys' kernel with a = -1/2, antialiased), ``"bilinear"``,
          ``"gaussian"`` (standard deviation ``factor`` pixels): as in deepinv;
        - ``"box"``: the mean of each factor x factor block;
        - ``"nearest"``: the top left pixel of each block;
        - a tensor of shape (h, w) or (1, C or 1, h, w), convolved as it is, its centre at
          ((h - 1) // 2, (w - 1) // 2), as in deepinv; not normalised.
    padding : {"circular", "reflect", "replicate", "constant", "valid"}
        What the filter sees beyond the border: the opposite side, the mirrored image, the
        border pixel, zeros; ``"valid"`` keeps only positions where it fits inside.
    noise_model : deepinv.physics.NoiseModel, optional
        Noise on the measurements; default none.
    device : torch.device or str
        Where the matrices live.
    **kwargs
        Options of ``deepinv.physics.LinearPhysics``.

    Attributes
    ----------
    vertical, horizontal : Tensor
        The matrices V, shape (terms, C or 1, height of y, H), and H, (terms, C or 1, width
        of y, W).

    Raises
    ------
    ValueError
        For an unknown filter or padding, a factor larger than the image, or a filter that
        fits neither the channels nor, under ``"valid"``, the image.

    Notes
    -----
    Equal to ``deepinv.physics.Downsampling`` up to rounding wherever that has the filter.

    Examples
    --------
    >>> import torch
    >>> from gprior.operators.downsampling import Downsampling
    >>> Downsampling((1, 2, 4), factor=2, filter="box")(torch.arange(8.0).reshape(1, 1, 2, 4))
    tensor([[[[2.5000, 4.5000]]]])
    """

    measurement_is_image = True
    vertical: Tensor
    horizontal: Tensor

    def __init__(
        self,
        img_size: Sequence[int],
        factor: int,
        filter: str | Tensor = "bicubic",
        padding: str = "circular",
        *,
        noise_model: Callable[..., Tensor] | None = None,
        device: torch.device | str = "cpu",
        **kwargs: Any,
    ) -> None:
        channels, height, width = checked_img_size(img_size)
        factor = integer("factor", factor, 1, min(height, width))
        if padding not in _PADDINGS:
            raise InputError(f"padding must be one of {', '.join(_PADDINGS)}, got {padding!r}")
        if isinstance(filter, Tensor):
            taps = _separated(filter, channels)
        else:
            taps = (_named_taps(filter, factor),) * 2
        # Blocks of a box start at the pixel that is kept; other filters are centred on it.
        centred = not (isinstance(filter, str) and filter == "box")
        matrices = [
            _decimation(t, size, factor, padding, centred)
            for t, size in zip(taps, (height, width), strict=True)
        ]
        shape = (channels, *(matrix.shape[-2] for matrix in matrices))
        super().__init__(
            (channels, height, width), shape, noise_model=noise_model, device=device, **kwargs
        )
        self.factor = factor
        self.padding = padding
        for name, matrix in zip(("vertical", "horizontal"), matrices, strict=True):
            self.register_buffer(name, matrix.to(torch.float32))
        self.to(device)

    @in_plain_mode
    def A(self, x: Tensor, **kwargs: Any) -> Tensor:  # noqa: N802
        """Downsample images ``x``, shape (B, C, H, W)."""
        x = self._checked("x", x, self.img_size)
        return _total(v @ x @ h.mT for v, h in self._terms(x.dtype))

    @in_plain_mode
    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:  # noqa: N802
        """Apply the transpose to measurements ``y``, shape (B, C, ceil(H/f), ceil(W/f))."""
        y = self._checked("y", y, self.measurement_shape)
        return _total(v.mT @ y @ h for v, h in self._terms(y.dtype))

    @in_plain_mode
    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:  # noqa: N802
        """Return the pseudo-inverse of ``y``: exact for separable filters, else iterative.

        Singular values below the precision of ``y`` count as zero. ``**kwargs`` are those of
        :meth:`Operator.A_dagger`, which serves filters that are not separable.
        """
        if len(self.vertical) > 1:
            return super().A_dagger(y, **kwargs)
        y = self._checked("y", y, self.measurement_shape)
        precision = torch.finfo(y.dtype).eps
        v, h = (
            torch.linalg.pinv(matrix[0].cpu().double(), rtol=max(matrix.shape[-2:]) * precision)
            for matrix in (self.vertical, self.horizontal)
        )
        x: Tensor = v.to(y) @ y @ h.to(y).mT
        return x

    def _terms(self, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        # Without the channel axis a term is one product of two matrices, not one per channel.
        for v, h in zip(self.vertical, self.horizontal, strict=True):
            yield v.squeeze(0).to(dtype), h.squeeze(0).to(dtype)


def _total(terms: Iterator[Tensor]) -> Tensor:
    total = next(terms)
    for term in terms:
        total = total + term
    return total


def _named_taps(name: str, factor: int) -> Tensor:
    """Return the taps (1, 1, k) in float64, summing to one, of a named filter along one axis."""
    half_pixels = torch.arange(-2 * factor, 2 * factor, dtype=torch.float64, device="cpu") + 0.5
    t = (half_pixels / factor).abs()
    if name == "bicubic":
        near = 1.5 * t**3 - 2.5 * t**2 + 1
        far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        taps = torch.where(t <= 1, near, far)
    elif name == "bilinear":
        taps = (1 - t)[t < 1]
    elif name == "gaussian":
        radius = int(factor / 0.3 + 1)
        pixels = torch.arange(-radius, radius + 1, dtype=torch.float64, device="cpu")
        taps = torch.exp(-0.5 * (pixels / factor) ** 2)
    elif name == "box":
        taps = torch.ones(factor, dtype=torch.float64, device="cpu")
    elif name == "nearest":
        taps = torch.ones(1, dtype=torch.float64, device="cpu")
    else:
        raise InputError(f"filter must be {', '.join(_FILTERS)} or a tensor, got {name!r}")
    return (taps / taps.sum())[None, None]


def _separated(filter: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Split a filter into (vertical taps, horizontal taps), each (terms, C or 1, k), by its SVD."""
    full = filter[None, None] if filter.ndim == 2 else filter
    if full.ndim != 4 or len(full) != 1 or full.shape[1] not in (1, channels) or not full.numel():
        raise InputError(
            f"filter must have shape (h, w) or (1, {channels} or 1, h, w), "
            f"got {tuple(filter.shape)}"
        )
    if full.is_complex() or not bool(full.isfinite().all()) or not bool(full.any()):
        raise InputError("filter must be real and finite and not zero everywhere")
    precision = torch.finfo(full.dtype if full.is_floating_point() else torch.float64).eps
    u, s, vh = torch.linalg.svd(full[0].detach().cpu().double(), full_matrices=False)
    rank = int((s > max(full.shape[-2:]) * precision * s[:, :1]).sum(-1).max())
    root = s.sqrt()[..., None]
    vertical, horizontal = u.mT * root, vh * root
    return vertical[:, :rank].transpose(0, 1), horizontal[:, :rank].transpose(0, 1)


def _decimation(taps: Tensor, size: int, factor: int, padding: str, centred: bool) -> Tensor:
    """Return the matrix (..., kept, size) of convolving with ``taps`` (..., k) and decimating."""
    k = taps.shape[-1]
    positions = size - k + 1 if padding == "valid" else size
    if positions < 1:
        raise InputError(
            f"padding='valid' needs an image at least as large as the filter, got {size} pixels "
            f"for {k} taps; use padding='reflect'"
        )
    kept = -(-positions // factor)
    before = (k - 1) // 2 if centred and padding != "valid" else 0
    first = factor * torch.arange(kept, device="cpu") - before
    source = first[:, None] + torch.arange(k, device="cpu")
    inside = ((source >= 0) & (source < size)) | (padding != "constant")
    if padding == "circular":
        source = source % size
    elif padding == "reflect":
        period = max(1, 2 * size - 2)
        source = torch.minimum(source % period, period - source % period)
    else:
        source = source.clamp(0, size - 1)
    values = taps.flip(-1)[..., None, :] * inside
    matrix = taps.new_zeros(*taps.shape[:-1], kept, size)
    return matrix.scatter_add_(-1, source.expand_as(values), values)
