"""Reconstructions: `gprior.solve`, and `gprior.tune`, which fits the generator to them."""

from __future__ import annotations

from gprior.solving.adjustment import tune
from gprior.solving.reconstruction import UNLIKELY as UNLIKELY, solve

__all__ = ["solve", "tune"]
