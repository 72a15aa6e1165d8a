"""A prior whose images are changed to another shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.checks import InputError, integer
from gprior.priors.prior import Prior
from gprior.priors.wrapped import Wrapped

__all__ = ["AdaptedPrior", "adapt"]

SIZES = ("resize", "pad", "crop")
LUMA = (0.299, 0.587, 0.114)


class AdaptedPrior(Wrapped):
    """The same prior, with its images mapped linearly to another shape.

    Gray images become RGB by repetition, and RGB images become gray by their luma (ITU-R
    BT.601). With two channels, gray becomes the real part and the imaginary part is zero, or
    both follow from a given phase; deepinv's MRI expects such images. The size changes by
    resampling, or by zero padding or cropping about the centre.

    Parameters
    ----------
    base : Prior
        The prior to adapt.
    image_shape : tuple of int
        The new shape (C, H, W), with C in {1, 2, 3}.
    size : {"resize", "pad", "crop"}, optional
        How height and width change; None stands for ``"resize"``. ``"pad"`` needs a larger
        and ``"crop"`` a smaller image.
    phase : Tensor, optional
        Phase (H, W) in radians of complex images (C = 2); with None, they are real.
    phase_size : int, optional
        Side of a low-resolution map that is added to the phase, the input ``phase``
        (B, 1, phase_size, phase_size) in radians. Methods that follow gradients search it with the
        latents. It needs a phase, which may be 0 everywhere.

    Raises
    ------
    ValueError
        If the prior cannot be changed in this way.

    Examples
    --------
    >>> import gprior
    >>> complex_prior = gprior.load_prior("phantom-64").adapt((2, 64, 64))
    >>> complex_prior.sample(1).shape
    torch.Size([1, 2, 64, 64])
    """

    def __init__(
        self,
        base: Prior,
        image_shape: Sequence[int],
        size: str | None = None,
        phase: Tensor | None = None,
        phase_size: int | None = None,
    ) -> None:
        shape = tuple(int(s) for s in image_shape)
        C0, H0, W0 = base.image_shape
        size = size or "resize"
        if len(shape) != 3 or shape[0] not in (1, 2, 3) or min(shape) < 1:
            raise InputError(f"image_shape must be (1, 2 or 3, H, W), got {shape}")
        if size not in SIZES:
            raise InputError(f"size must be one of {SIZES}, got {size!r}")
        C, H, W = shape
        if size == "pad" and (H < H0 or W < W0):
            raise InputError(f"size='pad' needs at least {H0}x{W0}, got {H}x{W}; use 'crop'")
        if size == "crop" and (H > H0 or W > W0):
            raise InputError(f"size='crop' needs at most {H0}x{W0}, got {H}x{W}; use 'pad'")
        if phase is not None and (C != 2 or tuple(phase.shape) != (H, W)):
            raise InputError(
                f"phase must have shape ({H}, {W}) and needs an image_shape of two channels, got "
                f"a phase {tuple(phase.shape)} and image_shape={shape}"
            )
        if C0 == 2 and C != 2:
            raise InputError(
                f"a prior with two channels keeps them, got image_shape={shape}; adapt its base"
            )
        if phase_size is not None:
            if phase is None:
                raise InputError("phase_size needs a phase, such as torch.zeros(H, W)")
            integer("phase_size", phase_size, least=1, most=min(H, W))
        super().__init__(base, phase=None if phase is None else phase.to(base.like))
        self.phase_size = phase_size
        if phase_size is not None:
            self.inputs = self.inputs | {"phase"}
        self.size, self.image_shape = size, shape
        self.record = {
            **base.record,
            "adapted": {"from": list(base.image_shape), "to": list(shape), "size": size},
        }
        self.freeze()

    def forward(self, *args: Any, phase: Tensor | None = None, **inputs: Any) -> Tensor:
        """Return adapted images (B, C, H, W); the arguments but ``phase`` are those of the base."""
        x = _fit(self._channels(self.base(*args, **inputs)), self.image_shape[1:], self.size)
        return x if self.phase is None else self._turned(x[:, :1], phase)

    def describe(self) -> str:
        """Return the description of the base, and the shape of the adapted images."""
        return f"{self.base.describe()}, adapted to {' x '.join(map(str, self.image_shape))}"

    def restore(self, x: Tensor) -> Tensor:
        """Map images of the adapted shape to those of the generator, for its discriminator."""
        C0, H0, W0 = self.base.image_shape
        x = _fit(x, (H0, W0), {"pad": "crop", "crop": "pad"}.get(self.size, self.size))
        if x.shape[1] == 2 and C0 != 2:
            x = x.square().sum(1, keepdim=True).add(1e-12).sqrt()
        x = x if x.shape[1] == C0 else _recolour(x, C0)
        return self.base.restore(x)

    def _channels(self, x: Tensor) -> Tensor:
        C = self.image_shape[0]
        if x.shape[1] == C:
            return x
        if C != 2:
            return _recolour(x, C)
        return torch.cat([_recolour(x, 1), torch.zeros_like(x[:, :1])], 1)

    def _turned(self, x: Tensor, phase: Tensor | None) -> Tensor:
        """Return complex images of a real part and a phase."""
        angle: Tensor = self.phase
        if phase is not None:
            fine = F.interpolate(
                phase, size=self.image_shape[1:], mode="bicubic", align_corners=False
            )
            angle = angle + fine
        return torch.cat([x * angle.cos(), x * angle.sin()], 1)


def adapt(prior: Prior, image_shape: Sequence[int], **options: Any) -> AdaptedPrior:
    """Return a prior with images of another shape; see `AdaptedPrior`."""
    return AdaptedPrior(prior, tuple(image_shape), **options)


Prior.register_adapter(adapt)


def _recolour(x: Tensor, channels: int) -> Tensor:
    if channels == 3:
        return x.expand(-1, 3, -1, -1)
    if x.shape[1] == 1:
        return x
    return (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def _fit(x: Tensor, to: tuple[int, ...], size: str) -> Tensor:
    """Change height and width by resampling, zero padding or cropping about the centre."""
    H, W = x.shape[2:]
    if tuple(to) == (H, W):
        return x
    if size == "resize":
        return F.interpolate(x, size=to, mode="bilinear", antialias=True)
    top, left = int((to[0] - H) / 2), int((to[1] - W) / 2)  # truncated: a crop undoes a pad
    return F.pad(x, (left, to[1] - W - left, top, to[0] - H - top))
