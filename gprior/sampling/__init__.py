"""Samples of the posterior, and proof that their intervals hold."""

from __future__ import annotations

from gprior.sampling.calibrating import calibrate
from gprior.sampling.conformal import Calibration, factor_for as factor_for
from gprior.sampling.drawing import posterior
from gprior.sampling.samples import Posterior

__all__ = ["Calibration", "Posterior", "calibrate", "posterior"]
