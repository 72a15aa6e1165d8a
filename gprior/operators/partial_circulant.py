"""Partial circulant sensing: random signs, circular convolution, random sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gprior.checks import InputError, integer
from gprior.operators.base import Operator, checked_img_size
from gprior.randomness import generator

__all__ = ["PartialCirculant"]

_Map = Callable[[Tensor], Tensor]
_SPECTRA = ("unimodular", "gaussian")


class PartialCirculant(Operator):
    r"""Compressed sensing in O(n log n): :math:`A x = c\, P_\Omega F^{-1}(\hat h \odot F(D x))`.

    D flips signs at random, F is the Fourier transform along the image flattened in (C, H, W)
    order (n values), :math:`\hat h` the spectrum of a real filter h, and :math:`P_\Omega`
    keeps m of the n values, drawn without replacement.

    Parameters
    ----------
    img_size : sequence of int
        Shape (C, H, W) of one image; n = C H W, or n = H W per channel.
    m : int or float
        Number of measurements (int, 1 to n), or their share of n (float, in (0, 1]); with
        ``channelwise``, per channel.
    spectrum : {"unimodular", "gaussian"}
        - ``"unimodular"``: :math:`|\hat h(k)| = 1` with random phases, so that
          :math:`A A^\top = c^2 I`: A has norm c, its pseudo-inverse is
          :math:`A^\top / c^2`, and noise is in pixel units at every m;
        - ``"gaussian"``: independent filter entries h ~ N(0, 1/n); the norm of A is then
          random, about :math:`c \sqrt{\log n}`.
    channelwise : bool
        Sense every channel on its own, with its own signs, filter and samples.
    scale : None or "isometry"
        None: c = 1. ``"isometry"``: :math:`c = \sqrt{n/m}`, so that
        :math:`E\|Ax\|^2 = \|x\|^2`.
    seed : int
        Seed of signs, filter and samples; the global seed has no influence. Under one seed,
        the samples of a smaller m are among those of a larger one.
    noise_model : deepinv.physics.NoiseModel, optional
        Noise on the measurements; default none.
    device : torch.device or str
        Where the buffers live.
    **kwargs
        Options of ``deepinv.physics.LinearPhysics``.

    Attributes
    ----------
    signs : Tensor
        The diagonal of D, int8, shape (1, n), or (C, n) with ``channelwise``.
    phases, coefficients : Tensor
        The spectrum at the n // 2 + 1 non-negative frequencies: its phases in radians,
        shape (1 or C, n // 2 + 1) (unimodular), or its real and imaginary parts, shape
        (1 or C, n // 2 + 1, 2) (gaussian).
    rows : Tensor
        :math:`\Omega`, ascending, int64, shape (1 or C, m).

    Raises
    ------
    TypeError, ValueError
        For an m that is not a count or a share of n, or unknown names.

    Notes
    -----
    Measurements have shape (B, m), or (B, C, m) with ``channelwise``. The unimodular form is
    Romberg's random convolution (2009, "Compressive sensing by random convolution"), the
    gaussian one that of ILO (Daras et al. 2021) with h scaled by :math:`1/\sqrt n`. Random
    signs matter: without them a constant image excites a single frequency.

    Examples
    --------
    >>> import torch
    >>> from gprior.operators.partial_circulant import PartialCirculant
    >>> A = PartialCirculant((3, 8, 8), m=0.5, seed=1)
    >>> y = A(torch.rand(2, 3, 8, 8))
    >>> y.shape
    torch.Size([2, 96])
    >>> bool(torch.allclose(A.A(A.A_adjoint(y)), y, atol=1e-5))
    True
    """

    signs: Tensor
    phases: Tensor
    coefficients: Tensor
    rows: Tensor

    def __init__(
        self,
        img_size: Sequence[int],
        m: int | float,
        spectrum: str = "unimodular",
        channelwise: bool = False,
        scale: str | None = None,
        seed: int = 0,
        *,
        noise_model: Callable[..., Tensor] | None = None,
        device: torch.device | str = "cpu",
        **kwargs: Any,
    ) -> None:
        img_size = checked_img_size(img_size)
        seed = integer("seed", seed)
        if spectrum not in _SPECTRA:
            raise InputError(f"spectrum must be one of {', '.join(_SPECTRA)}, got {spectrum!r}")
        if scale not in (None, "isometry"):
            raise InputError(f"scale must be None or 'isometry', got {scale!r}")
        groups = img_size[0] if channelwise else 1
        n = math.prod(img_size) // groups
        count = _count(m, n)
        super().__init__(
            img_size,
            (groups, count) if channelwise else (count,),
            noise_model=noise_model,
            device=device,
            **kwargs,
        )
        self.spectrum = spectrum
        self.gain = 1.0 if scale is None else math.sqrt(n / count)
        draws = {name: generator("circulant", name, seed) for name in ("signs", "filter", "rows")}
        size, coins = (groups, n), draws["signs"]
        signs = torch.randint(0, 2, size, generator=coins, dtype=torch.int8, device="cpu")
        self.register_buffer("signs", 2 * signs - 1)
        if spectrum == "unimodular":
            self.register_buffer("phases", _phases(groups, n, draws["filter"]))
        else:
            self.register_buffer("coefficients", _coefficients(groups, n, draws["filter"]))
        orders = [
            torch.randperm(n, generator=draws["rows"], device="cpu")[:count] for _ in range(groups)
        ]
        self.register_buffer("rows", torch.stack(orders).sort().values)
        self.to(device)

    @property
    def filter(self) -> Tensor:
        """The real filter h, shape (1, n), or (C, n) with ``channelwise``."""
        h: Tensor = torch.fft.irfft(self._transfer(), n=self.signs.shape[-1])
        return h

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:  # noqa: N802
        """Measure images ``x``, shape (B, C, H, W)."""
        measured: Tensor = _Linear.apply(
            self._checked("x", x, self.img_size), self._measure, self._transpose
        )
        return measured

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:  # noqa: N802
        """Apply the transpose to measurements ``y``, shape (B, m) or (B, C, m)."""
        spread: Tensor = _Linear.apply(
            self._checked("y", y, self.measurement_shape), self._transpose, self._measure
        )
        return spread

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:  # noqa: N802
        """Return the pseudo-inverse of ``y``: exact if unimodular, iterative if gaussian.

        ``**kwargs`` are those of :meth:`Operator.A_dagger`, which serves the gaussian spectrum.
        """
        if self.spectrum == "unimodular":
            return self.A_adjoint(y) / self.gain**2
        return super().A_dagger(y, **kwargs)

    def _measure(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(self.signs * x.reshape(len(x), *self.signs.shape))
        spectrum *= self._transfer(x.dtype)
        mixed: Tensor = torch.fft.irfft(spectrum, n=self.signs.shape[-1])
        samples = mixed.gather(-1, self.rows.expand(len(x), -1, -1))
        return self.gain * samples.reshape(len(x), *self.measurement_shape)

    def _transpose(self, y: Tensor) -> Tensor:
        rows = self.rows.expand(len(y), -1, -1)
        spread = y.new_zeros(len(y), *self.signs.shape).scatter_(-1, rows, y.reshape(rows.shape))
        spectrum = torch.fft.rfft(spread)
        spectrum *= self._transfer(y.dtype).conj()
        signal: Tensor = torch.fft.irfft(spectrum, n=self.signs.shape[-1])
        return self.gain * (self.signs * signal).reshape(len(y), *self.img_size)

    def _transfer(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the complex spectrum, shape (1 or C, n // 2 + 1).

        Built anew from real buffers in each call: casting a module to float64 would drop the
        imaginary part of a complex buffer, and float32 phases are unimodular in any precision.
        """
        if self.spectrum == "unimodular":
            phases = self.phases.to(dtype)
            return torch.polar(torch.ones_like(phases), phases)
        return torch.view_as_complex(self.coefficients.to(dtype))


class _Linear(torch.autograd.Function):
    """Apply a linear map whose derivative is its transpose.

    Differentiating the transforms one by one would take complex ones of full length: twice
    the memory for the same numbers.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, apply: _Map, transpose: _Map) -> Tensor:
        return apply(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _Map, _Map], output: Tensor) -> None:
        _, ctx.map, ctx.transpose = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Linear.apply(gradient, ctx.transpose, ctx.map), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        pushed: Tensor = _Linear.apply(tangent, ctx.map, ctx.transpose)
        return pushed


def _count(m: int | float, n: int) -> int:
    if not isinstance(m, float):
        return integer("m (a count, or as a float a share)", m, 1, n)
    if not 0 < m <= 1:
        raise InputError(
            f"m must be a share in (0, 1] if it is a float, got {m}; "
            f"for a count pass an int from 1 to {n}"
        )
    return max(1, round(m * n))


def _phases(groups: int, n: int, rng: torch.Generator) -> Tensor:
    """Draw uniform phases, 0 or pi where the spectrum of a real filter is real."""
    shares = torch.rand(groups, n // 2 + 1, generator=rng, dtype=torch.float32, device="cpu")
    phases = 2 * math.pi * shares
    real = slice(None, None, n // 2) if n % 2 == 0 else slice(0, 1)
    phases[:, real] = math.pi * (phases[:, real] > math.pi).to(phases)
    return phases


def _coefficients(groups: int, n: int, rng: torch.Generator) -> Tensor:
    """Draw the spectrum of a filter with independent entries N(0, 1/n), as real pairs.

    Its real and imaginary parts are N(0, 1/2), except where the spectrum is real: N(0, 1).
    """
    size = (groups, n // 2 + 1, 2)
    pairs = torch.randn(size, generator=rng, dtype=torch.float32, device="cpu") * math.sqrt(0.5)
    real = slice(None, None, n // 2) if n % 2 == 0 else slice(0, 1)
    pairs[:, real] *= pairs.new_tensor([math.sqrt(2.0), 0.0])
    return pairs
