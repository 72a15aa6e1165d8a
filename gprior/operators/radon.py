"""Computed tomography: sums along rays, by deepinv."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import deepinv
import torch
from torch import Tensor

from gprior.checks import InputError, integer, number
from gprior.operators.base import checked_img_size

__all__ = ["ct", "equally_spaced", "fan_weights"]

GEOMETRIES = ("parallel", "fan")
MOST_ANGLES = 3600


def equally_spaced(count: int, geometry: str = "parallel") -> Tensor:
    """Return ``count`` angles in degrees: over half a turn, or a whole turn for a fan.

    Examples
    --------
    >>> equally_spaced(4).tolist()
    [0.0, 45.0, 90.0, 135.0]
    """
    count = integer("angles", count, least=1, most=MOST_ANGLES)
    turn = 360 if geometry == "fan" else 180
    return torch.arange(count, dtype=torch.float32, device="cpu") * (turn / count)


def ct(
    img_size: Sequence[int],
    angles: Tensor,
    geometry: str = "parallel",
    circle: bool = False,
    fan: Mapping[str, float] | None = None,
) -> Any:
    """Return deepinv's operator of tomography, scaled to a norm of 1.

    Parameters
    ----------
    img_size : sequence of int
        Shape (C, H, W) of one image, with H = W.
    angles : Tensor
        Angles in degrees, (A,).
    geometry : {"parallel", "fan"}
        Geometry of the rays.
    circle : bool
        Whether the object lies inside the circle that touches the image's sides. There are then
        W detectors, else ceil(sqrt(2) W). For parallel rays.
    fan : mapping, optional
        For a fan: ``source_radius`` and ``detector_radius``, the distances of the source and of
        the detector from the axis of rotation, ``detector_spacing``, all in pixels of the image,
        and ``detectors``, their number. The default encloses the image in a fan whose source is
        4 image widths away from the axis.

    Returns
    -------
    deepinv.physics.Tomography
        Its measurements are (B, C, detectors, angles).

    Raises
    ------
    InputError
        If the image is not square, or a value is out of range.
    """
    _, height, width = checked_img_size(img_size)
    if height != width or width < 2:
        raise InputError(f"ct needs square images of 2 pixels or more, got {height} x {width}")
    if geometry not in GEOMETRIES:
        raise InputError(f"geometry must be one of {', '.join(GEOMETRIES)}, got {geometry!r}")
    if angles.ndim != 1 or not 1 <= len(angles) <= MOST_ANGLES or not angles.isfinite().all():
        raise InputError(
            f"angles must be 1 to {MOST_ANGLES} finite numbers in degrees, got a tensor "
            f"{tuple(angles.shape)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # deepinv draws the start of its power iteration from this stream
        return deepinv.physics.Tomography(
            angles=angles.to(torch.float32),
            img_width=width,
            circle=circle and geometry == "parallel",
            normalize=True,
            fan_beam=geometry == "fan",
            fan_parameters=_fan(width, fan or {}) if geometry == "fan" else None,
        )


def _fan(width: int, given: Mapping[str, float]) -> dict[str, float]:
    """Return deepinv's parameters of a fan, in pixels."""
    grid = math.ceil(math.sqrt(2) * width)
    far = 4.0 * width
    # At the detector the shadow of the image's circle is twice as large as at the axis.
    usual = {
        "source_radius": far,
        "detector_radius": far,
        "detector_spacing": 2.0,
        "detectors": grid,
    }
    if unknown := sorted(set(given) - set(usual)):
        raise InputError(f"fan has the fields {', '.join(usual)}, got {', '.join(unknown)}")
    values = {name: number(name, value, above=0) for name, value in (usual | {**given}).items()}
    if values["source_radius"] <= width / math.sqrt(2):
        raise InputError(
            f"source_radius must be above {width / math.sqrt(2):.4g} pixels, so that the source "
            f"is outside the image, got {values['source_radius']:g}"
        )
    return {
        # deepinv puts the centres of the outer pixels at the edges of its grid, which magnifies
        # the image by grid / (grid - 1); this spacing undoes it.
        "pixel_spacing": (grid - 1) / grid,
        "source_radius": values["source_radius"],
        "detector_radius": values["detector_radius"],
        "detector_spacing": values["detector_spacing"],
        "n_detector_pixels": integer("detectors", int(values["detectors"]), least=2),
    }


def fan_weights(detectors: int, spacing: float, distance: float) -> Tensor:
    """Return the cosine of each ray's angle to the central ray, (detectors,).

    deepinv adds up a ray at equal steps along the central ray, which are 1 / cosine times longer
    on the ray itself: its measurements are line integrals times this cosine.

    Parameters
    ----------
    detectors : int
        Number of detectors.
    spacing, distance : float
        Spacing of the detectors, and their distance from the source, in one unit.
    """
    position = torch.arange(detectors, dtype=torch.float64) - (detectors - 1) / 2
    return torch.cos(torch.atan(position * spacing / distance))
