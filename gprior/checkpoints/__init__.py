"""Checkpoints that others trained, read as data and never as code."""

from __future__ import annotations

from gprior.checkpoints.containers import read_checkpoint
from gprior.checkpoints.formats import load

__all__ = ["load", "read_checkpoint"]
