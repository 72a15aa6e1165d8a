"""Reads what scanners measure: k-space of MRI and sinograms of CT, with their operators.

acquisition = read_kspace("scan.h5")                   # or read_sinogram("scan.npz")
prior = acquisition.adapt(load_prior("heads.safetensors"))
result = solve(acquisition.y, acquisition.A, prior)
image = acquisition.in_file_units(result.x)
"""

from __future__ import annotations

from gprior.measurements.acquisition import Acquisition
from gprior.measurements.arrays import read_npy as read_npy, read_npz as read_npz
from gprior.measurements.kspace import low_resolution_phase, read_kspace
from gprior.measurements.sinograms import read_sinogram

__all__ = ["Acquisition", "low_resolution_phase", "read_kspace", "read_sinogram"]
