"""Sinograms: from the arrays of a file to an operator and measurements of an image in HU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gprior.checks import InputError
from gprior.measurements.acquisition import Acquisition
from gprior.measurements.arrays import Array, finite, read_npz, scalar
from gprior.operators import ct, fan_weights

__all__ = ["read_sinogram"]

WATER = 0.02  # attenuation of water in 1/mm at about 65 keV, as in LoDoPaB-CT
WINDOW = (-1000.0, 1000.0)  # HU: air is 0, where the background of a prior usually is
PERCENTILE = 99.0
DISTANCES = ("source_radius", "detector_radius", "detector_spacing")


def read_sinogram(path: str | Path, intensity: Sequence[float] | None = None) -> Acquisition:
    """Read a sinogram, as the arguments of `gprior.solve`.

    The image is linear in Hounsfield units, mu = mu_water (1 + HU / 1000), where mu is the
    attenuation. The sinogram has line integrals of mu: minus the logarithm of the share of
    photons that arrive. For parallel rays at 0 degrees, the rays run from top to bottom and the
    detectors are numbered from left to right; for a fan at 0 degrees, the rays run from left to
    right and the detectors are numbered from top to bottom. Angles turn counter-clockwise.

    Parameters
    ----------
    path : path-like
        An ``.npz`` file with these arrays; lengths are in mm:

        - ``sinogram`` or ``y``: (detectors, angles), or (angles, detectors) where only this fits
          the number of angles;
        - ``angles``: in degrees, (angles,);
        - ``pixel_spacing``: side of a pixel, which makes Hounsfield units possible;
        - ``mu_water``: attenuation of water in 1/mm, default 0.02 (Leuschner et al. 2021,
          "LoDoPaB-CT");
        - ``geometry``: ``"parallel"`` (default) or ``"fan"``;
        - ``size``: pixels along one side of the image; the default is the number of detectors
          for parallel rays, where it may also be such that the detectors span its diagonal;
        - for a fan: ``source_radius``, ``detector_radius`` (distances from the axis of rotation),
          ``detector_spacing``, and ``size``.
    intensity : (float, float), optional
        Hounsfield units that are 0 and 1 in the prior; default -1000, 1000. What the prior cannot
        show outside them is not reconstructed: LO should be air where there is air.

    Returns
    -------
    Acquisition
        ``y`` is (1, 1, detectors, angles). Without ``pixel_spacing`` the image has the units of
        the sinogram per pixel, and the 99th percentile of its filtered back-projection is 1.

    Raises
    ------
    InputError
        If the file has another layout or is damaged, or its numbers do not fit each other.
    OSError
        If the file cannot be opened.
    """
    path = Path(path)
    with path.open("rb"):  # raises the usual error if the file cannot be opened
        pass
    arrays = read_npz(path)
    sinogram, angles, axes = _oriented(path, arrays)
    spacing = scalar(path, "pixel_spacing", arrays, 0.0)
    if intensity is not None and not spacing:
        raise InputError(
            f"intensity needs Hounsfield units, for which {path} must state pixel_spacing in mm"
        )
    size, circle = _size(path, arrays, len(sinogram))
    geometry, fan = _geometry(path, arrays, len(sinogram), spacing)
    A = ct((1, size, size), angles, geometry, circle, fan)
    y = sinogram
    if fan is not None:
        distance = fan["source_radius"] + fan["detector_radius"]
        y = y * fan_weights(len(y), fan["detector_spacing"], distance)[:, None]
    y = y.to(torch.float32)[None, None]
    record: dict[str, Any] = {
        "format": "NPZ",
        "axes": axes,
        "shape": list(sinogram.shape),
        "geometry": geometry,
        "angles": [float(angles.min()), float(angles.max())],
        "size": size,
    }
    norm = float(A.operator_norm)
    if not spacing:
        scale = _percentile(path, A, y / norm)
        record |= {"scale": scale, "scale_rule": "99th percentile of the back-projection is 1"}
        unit = norm * scale
        return Acquisition(y / unit, A, (1, size, size), (0.0, scale), unit, None, record)
    water = scalar(path, "mu_water", arrays, WATER)
    lo, hi = WINDOW if intensity is None else map(float, intensity)
    if not (math.isfinite(lo) and math.isfinite(hi)) or lo == hi:
        raise InputError(f"intensity must be two different finite numbers LO, HI, got {lo}, {hi}")
    # mu = mu_water (1 + (lo + x (hi - lo)) / 1000): a constant, and a multiple of x.
    constant, factor = water * (1 + lo / 1000), water * (hi - lo) / 1000
    y = (y / (spacing * norm) - constant * A.A(torch.ones(1, 1, size, size))) / factor
    unit = abs(spacing * norm * factor)
    record |= {"pixel_spacing": spacing, "mu_water": water, "units": "HU"}
    return Acquisition(y, A, (1, size, size), (lo, hi), unit, None, record)


def _oriented(path: Path, arrays: dict[str, Array]) -> tuple[Tensor, Tensor, str]:
    """Return the sinogram (detectors, angles), the angles, and the order of the file's axes."""
    name = "sinogram" if "sinogram" in arrays else "y"
    if missing := {name, "angles"} - set(arrays):
        raise InputError(
            f"{path} must have the arrays sinogram and angles; {' and '.join(sorted(missing))} is "
            f"missing, it has {sorted(arrays)}"
        )
    sinogram = finite(path, name, arrays[name]).squeeze().astype("float64")
    angles = finite(path, "angles", arrays["angles"]).reshape(-1).astype("float32")
    if sinogram.ndim != 2 or len(angles) not in sinogram.shape or min(sinogram.shape) < 2:
        raise InputError(
            f"{name} of {path} must have shape (detectors, {len(angles)}) or ({len(angles)}, "
            f"detectors) for its {len(angles)} angles, got {arrays[name].shape}"
        )
    first = sinogram.shape[1] != len(angles)
    sinogram = sinogram.T.copy() if first else sinogram
    axes = "angles, detectors" if first else "detectors, angles"
    return torch.as_tensor(sinogram), torch.as_tensor(angles), axes


def _size(path: Path, arrays: dict[str, Array], detectors: int) -> tuple[int, bool]:
    """Return the side of the image, and whether the detectors span a circle inside it."""
    size = int(scalar(path, "size", arrays, detectors))
    if _name(path, arrays) == "fan" or size == detectors:
        return size, True
    if math.ceil(math.sqrt(2) * size) == detectors:
        return size, False
    raise InputError(
        f"size of {path} must be {detectors}, or such that its diagonal has {detectors} pixels, "
        f"because parallel rays are one pixel apart; got {size}"
    )


def _name(path: Path, arrays: dict[str, Array]) -> str:
    value = arrays.get("geometry")
    name = "parallel" if value is None else str(value.reshape(-1)[0])
    if name not in ("parallel", "fan"):
        raise InputError(f"geometry of {path} must be parallel or fan, got {name!r}")
    return name


def _geometry(
    path: Path, arrays: dict[str, Array], detectors: int, spacing: float
) -> tuple[str, dict[str, float] | None]:
    """Return the geometry, and for a fan its lengths in pixels."""
    if _name(path, arrays) == "parallel":
        return "parallel", None
    needed = ("size", "pixel_spacing", *DISTANCES)
    if missing := [name for name in needed if name not in arrays]:
        raise InputError(f"{path} is of a fan and must state {', '.join(missing)} in mm")
    lengths = {name: scalar(path, name, arrays, 1.0) / spacing for name in DISTANCES}
    return "fan", {**lengths, "detectors": detectors}


def _percentile(path: Path, A: Any, y: Tensor) -> float:
    image = A.A_dagger(y, fbp=True)
    scale = float(torch.quantile(image.flatten().double(), PERCENTILE / 100))
    if scale <= 0:
        raise InputError(
            f"the sinogram of {path} makes an image without positive values, so its scale is not "
            "known; a sinogram must have line integrals, not counts of photons"
        )
    return scale
