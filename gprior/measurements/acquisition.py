"""What a scanner measured, as the arguments of `gprior.solve`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Acquisition"]


class Adaptable(Protocol):
    """What a prior must offer here."""

    image_shape: tuple[int, int, int]

    def adapt(self, image_shape: Any, **options: Any) -> Any:
        """Return the prior with images of another shape."""


Prior = TypeVar("Prior", bound=Adaptable)


@dataclass(frozen=True, eq=False)
class Acquisition:
    """Measurements of one image, the operator that made them, and the units of the file.

    Attributes
    ----------
    y : Tensor
        Measurements (1, ...) of an image in the units of a prior.
    A : deepinv.physics.LinearPhysics
        The operator.
    image_shape : tuple of int
        Shape (C, H, W) of the image. C is 2 for a complex image.
    intensity : tuple of float
        The values (LO, HI) in the units of the file that are 0 and 1 in those of the prior.
    unit : float
        What 1 in ``y`` is in the units of the file's measurements; divide the standard deviation
        of the noise by it.
    phase : Tensor or None
        Phase (H, W) of the image in radians; None for a real image.
    record : dict
        Where the data come from and what was done with them, as JSON values.
    """

    y: Tensor
    A: Any
    image_shape: tuple[int, int, int]
    intensity: tuple[float, float]
    unit: float = 1.0
    phase: Tensor | None = None
    record: dict[str, Any] = field(default_factory=dict)

    def adapt(self, prior: Prior, phase_size: int | None = None) -> Prior:
        """Return a prior with images of this shape and phase.

        The image of the prior is resampled to cover the image without a change of its
        proportions, and cropped about its centre. Pixels are taken to be square.

        Parameters
        ----------
        prior : Prior
            A prior of real images.
        phase_size : int, optional
            Side of a map that is added to the phase and searched with the latents; see
            `gprior.priors.AdaptedPrior`.
        """
        channels, *size = self.image_shape
        shown, *from_size = prior.image_shape
        factor = max(new / old for new, old in zip(size, from_size, strict=True))
        cover = [
            max(new, math.ceil(old * factor - 1e-9))
            for new, old in zip(size, from_size, strict=True)
        ]
        if cover != from_size:
            prior = prior.adapt((shown, *cover))
        if self.phase is not None or (shown, *cover) != self.image_shape:
            options = {} if self.phase is None else {"phase": self.phase, "phase_size": phase_size}
            prior = prior.adapt((channels, *size), size="crop", **options)
        return prior

    def in_file_units(self, x: Tensor) -> NDArray[Any]:
        """Return images in the units of the file.

        Parameters
        ----------
        x : Tensor
            Images (B, C, H, W) in the units of the prior.

        Returns
        -------
        ndarray
            (B, H, W): complex64 where C is 2, else float32.
        """
        lo, hi = self.intensity
        values = x.detach().cpu().double().numpy()
        if self.image_shape[0] == 2:
            pairs: NDArray[Any] = (values[:, 0] + 1j * values[:, 1]) * (hi - lo)
            return pairs.astype(np.complex64)
        return (lo + values[:, 0] * (hi - lo)).astype(np.float32)
