"""k-space: from the arrays of a file to an operator, measurements and the phase of the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gprior.checks import InputError
from gprior.measurements.acquisition import Acquisition
from gprior.measurements.arrays import Array, finite, read_npy, read_npz
from gprior.measurements.hdf5 import chosen, read_hdf5
from gprior.operators import from_spec, kind_of

__all__ = ["low_resolution_phase", "read_kspace"]

PERCENTILE = 99.0
PHASE_SHARE = 1 / 4  # of k-space in each direction: what a low-resolution phase may use
CALIBRATION = (12, 24)  # smallest and largest side of the square that ESPIRiT is calibrated on


def read_kspace(
    path: str | Path, spec: str = "mri", slice: int | None = None, seed: int = 0
) -> Acquisition:
    """Read k-space of one slice, as the arguments of `gprior.solve`.

    Zero frequency must be at (H // 2, W // 2). Real and imaginary part are the two channels of
    the image. The image is scaled so that the 99th percentile of the magnitude of the zero-filled
    image is 1; ``intensity[1]`` is this percentile, which `Acquisition.in_file_units` undoes.

    Parameters
    ----------
    path : path-like
        - HDF5 of fastMRI: ``kspace`` (slices, H, W) or (slices, coils, H, W), ``mask``,
          ``maps``;
        - ISMRMRD, Cartesian and 2-D;
        - NPZ: ``kspace`` or ``y``, complex, (H, W), (coils, H, W) or (slices, coils, H, W), and
          optionally ``mask`` (W,) or (H, W), ``maps`` (coils, H, W), ``phase`` (H, W) in radians
          and ``readout``, the length of H without oversampling;
        - NPY: ``kspace`` alone.

        Without a mask, entries that are 0 in all coils count as not sampled.
    spec : str
        ``"mri"`` takes what was measured. ``"mri:4"`` and the other forms of
        `gprior.operators.OPERATORS` drop a part of it, to simulate a faster scan.
    slice : int, optional
        Number of the slice, from 0; the default is the middle one.
    seed : int
        Seed of the pattern of ``"mri:4"``.

    Returns
    -------
    Acquisition
        ``y`` is (1, 2, H, W), or (1, 2, coils, H, W) with several coils, in the order of the
        file. Oversampling of the readout is removed where its length is known.

    Raises
    ------
    InputError
        If the file has another layout, is damaged, or a package that it needs is missing.
    OSError
        If the file cannot be opened.

    Notes
    -----
    Missing coil maps are estimated by ESPIRiT (Uecker et al. 2014), in the implementation of
    sigpy. A missing phase is that of the low-resolution image from the fully sampled centre
    (Noll, Nishimura and Macovski 1991, "Homodyne detection in magnetic resonance imaging").
    """
    if kind_of(spec) != "mri":
        raise InputError(f"spec must be mri, or mri with an acceleration, got {spec!r}")
    path = Path(path)
    arrays, facts = _arrays(path, slice)
    kspace = torch.as_tensor(finite(path, "kspace", arrays["kspace"], "c")).to(torch.complex64)
    mask = _mask(path, arrays.get("mask"), kspace)
    readout, rows = facts.pop("readout", None), kspace.shape[1]
    if readout is not None and 0 < readout < rows:
        kspace, mask = _without_oversampling(path, kspace, mask, readout)
    facts["readout"] = [rows, kspace.shape[1]]
    coils, H, W = kspace.shape
    maps = _given_maps(path, arrays.get("maps"), (coils, H, W))
    phase = _given_phase(path, arrays.get("phase"), (H, W))
    A = from_spec(spec, (2, H, W), seed, mask=mask)  # of one coil, for its mask
    mask = A.mask[0, 0]
    kspace = kspace * mask
    if not bool(kspace.any()):
        raise InputError(f"kspace of {path} must not be 0 wherever the mask samples it")
    facts["maps"] = "none" if coils == 1 and maps is None else "file"
    if coils > 1 and maps is None:
        maps, facts["maps"] = _estimated_maps(path, kspace, mask), "ESPIRiT"
    if maps is not None:
        A = from_spec("mri", (2, H, W), mask=mask, maps=maps)
    magnitude = _zero_filled(kspace, maps).abs()
    scale = float(torch.quantile(magnitude.flatten().double(), PERCENTILE / 100))
    if not scale:
        raise InputError(
            f"kspace of {path} makes an image that is 0 in {PERCENTILE:g} % of its pixels, so its "
            "scale is not known; crop the image, or check kspace and maps"
        )
    facts["phase"] = "low resolution" if phase is None else "file"
    if phase is None:
        phase = low_resolution_phase(kspace, mask, maps)
    y = torch.view_as_real(kspace / scale).movedim(-1, 0)[None]
    record = facts | {
        "axes": "coils, readout, phase encoding",
        "shape": [coils, H, W],
        "sampled": round(float(mask.mean()), 4),
        "scale": scale,
        "scale_rule": f"{PERCENTILE:g}th percentile of the zero-filled magnitude is 1",
    }
    y = y if maps is not None else y[:, :, 0]
    return Acquisition(y.contiguous(), A, (2, H, W), (0.0, scale), scale, phase, record)


# --- What the file has -----------------------------------------------------------------------


def _arrays(path: Path, slice: int | None) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays of one slice, with kspace (coils, H, W), and facts about the file."""
    with path.open("rb") as stream:
        head = stream.read(8)
    if head.startswith(b"\x89HDF"):
        return read_hdf5(path, slice)
    if head.startswith(b"\x93NUMPY"):
        arrays, kind = {"kspace": read_npy(path)}, "NPY"
    elif head.startswith(b"PK"):
        arrays, kind = read_npz(path), "NPZ"
    else:
        raise InputError(
            f"{path} is not k-space that gprior reads: its first bytes show that it is none of "
            "HDF5 (fastMRI, ISMRMRD), NPZ and NPY"
        )
    name = "kspace" if "kspace" in arrays else "y"
    if name not in arrays:
        raise InputError(f"{path} must have an array kspace or y; it has {sorted(arrays)}")
    kspace = arrays[name]
    if kspace.dtype.kind != "c" or kspace.ndim not in (2, 3, 4) or not kspace.size:
        raise InputError(
            f"{name} of {path} must be complex, (H, W), (coils, H, W) or (slices, coils, H, W), "
            f"got {kspace.dtype} {kspace.shape}"
        )
    volume = kspace if kspace.ndim == 4 else kspace[(None,) * (4 - kspace.ndim)]
    number = chosen(path, slice, len(volume))
    arrays = {**arrays, "kspace": volume[number]}
    if "maps" in arrays and arrays["maps"].ndim == 4:
        arrays["maps"] = arrays["maps"][min(number, len(arrays["maps"]) - 1)]
    readout = finite(path, "readout", arrays["readout"], "iu") if "readout" in arrays else None
    facts = {"format": kind, "slice": number, "slices": len(volume)}
    return arrays, facts | {"readout": None if readout is None else int(readout.flat[0])}


def _mask(path: Path, given: Array | None, kspace: Tensor) -> Tensor:
    """Return what is sampled, (H, W), 1 or 0."""
    H, W = kspace.shape[1:]
    if given is None:
        return (kspace != 0).any(0).to(torch.float32)
    mask = finite(path, "mask", given, "buif").squeeze()
    if mask.shape not in ((W,), (H, W)) or not np.isin(mask, (0, 1)).all():
        raise InputError(
            f"mask of {path} must be 0 or 1, of shape ({W},) or ({H}, {W}), got {given.shape}"
        )
    return torch.as_tensor(mask.astype(np.float32)).expand(H, W).contiguous()


def _given_maps(path: Path, given: Array | None, shape: tuple[int, ...]) -> Tensor | None:
    if given is None:
        return None
    maps = finite(path, "maps", given, "c")
    if maps.shape != shape:
        raise InputError(
            f"maps of {path} must have the shape {shape} of one slice of its k-space without "
            f"oversampling, got {maps.shape}"
        )
    return torch.as_tensor(maps.astype(np.complex64))


def _given_phase(path: Path, given: Array | None, shape: tuple[int, int]) -> Tensor | None:
    if given is None:
        return None
    phase = finite(path, "phase", given)
    if phase.shape != shape:
        raise InputError(f"phase of {path} must have shape {shape}, got {phase.shape}")
    return torch.as_tensor(phase.astype(np.float32))


# --- What is computed ------------------------------------------------------------------------


def _to_image(kspace: Tensor, dims: tuple[int, ...] = (-2, -1)) -> Tensor:
    """Return the orthonormal inverse Fourier transform, with zero frequency at the centre."""
    shifted = torch.fft.ifftshift(kspace, dim=dims)
    image: Tensor = torch.fft.fftshift(torch.fft.ifftn(shifted, dim=dims, norm="ortho"), dim=dims)
    return image


def _without_oversampling(
    path: Path, kspace: Tensor, mask: Tensor, readout: int
) -> tuple[Tensor, Tensor]:
    """Crop the image along the readout, which is fully sampled, to ``readout`` pixels."""
    if not bool((mask == mask[:1]).all()):
        raise InputError(
            f"{path} states a readout of {readout} of {len(mask)} samples, but its mask is not "
            "the same in all of them; remove the oversampling before masking"
        )
    image = _to_image(kspace, (-2,))
    start = image.shape[-2] // 2 - readout // 2
    image = torch.fft.ifftshift(image[..., start : start + readout, :], dim=-2)
    cropped = torch.fft.fftshift(torch.fft.fft(image, dim=-2, norm="ortho"), dim=-2)
    return cropped * mask[:1], mask[:readout]


def _zero_filled(kspace: Tensor, maps: Tensor | None) -> Tensor:
    """Return the complex image (H, W) of coils combined by their maps (Roemer et al. 1990)."""
    images = _to_image(kspace)
    if maps is None:
        return images[0]
    power = maps.abs().square().sum(0)
    combined = (maps.conj() * images).sum(0)
    return torch.where(power > 1e-6 * power.max(), combined / power.clamp_min(1e-12), 0)


def _centre(mask: Tensor, most: int) -> int:
    """Return the side of the largest square about zero frequency that is sampled, up to `most`.

    A square with an even side has one more row and column before zero frequency than after it.
    """
    row, column = mask.shape[0] // 2, mask.shape[1] // 2
    for side in range(1, most + 1):
        top, left = row - side // 2, column - side // 2
        block = mask[max(0, top) : top + side, max(0, left) : left + side]
        if not bool(block.all()):
            return side - 1
    return most


def low_resolution_phase(kspace: Tensor, mask: Tensor, maps: Tensor | None = None) -> Tensor:
    """Return the phase of the image from the fully sampled centre of k-space.

    The centre is the largest square about zero frequency that is sampled, up to a quarter of
    k-space, under a Hann window.

    Parameters
    ----------
    kspace : Tensor
        Complex, (coils, H, W).
    mask : Tensor
        (H, W), 1 where k-space is sampled.
    maps : Tensor, optional
        Sensitivities of the coils, complex, (coils, H, W).

    Returns
    -------
    Tensor
        (H, W), in radians.

    Raises
    ------
    InputError
        If the neighbours of zero frequency are not all sampled.
    """
    H, W = mask.shape
    most = max(1, int(min(H, W) * PHASE_SHARE) // 2)
    radius = (_centre(mask, 2 * most + 1) - 1) // 2  # to both sides
    if radius < 1:
        raise InputError(
            "mask must sample the centre of k-space, from which the phase of the image is "
            "estimated; give the phase (an array phase in an .npz file), or sample the centre"
        )
    windows = []
    for size in (H, W):
        away = (torch.arange(size, device=mask.device) - size // 2).abs() / (radius + 1)
        windows.append(torch.cos(torch.pi / 2 * away.clamp_max(1)).square())
    window = windows[0][:, None] * windows[1]
    phase: Tensor = _zero_filled(kspace * window, maps).angle()
    return phase


def _estimated_maps(path: Path, kspace: Tensor, mask: Tensor) -> Tensor:
    """Estimate coil maps by ESPIRiT from the fully sampled centre."""
    import deepinv

    least, most = CALIBRATION
    side = _centre(mask, min(most, *mask.shape))
    if side < least:
        raise InputError(
            f"maps are needed for {path}: the fully sampled centre of its k-space has fewer than "
            f"{least} x {least} entries, too few to estimate them; add an array maps to the file"
        )
    y = torch.view_as_real(kspace).movedim(-1, 0)[None].contiguous()
    try:
        maps = deepinv.physics.MultiCoilMRI.estimate_coil_maps(y, calib_size=side)
    except ImportError as error:
        raise InputError(
            f"maps are needed for {path}, and sigpy, which estimates them, is not installed: "
            'pip install "gprior[mri]", or add an array maps to the file'
        ) from error
    return torch.as_tensor(maps[0]).to(torch.complex64)
