"""Files and priors: the native format, embedded weights, and checkpoints that others trained.

Every file is read as data and never as code.
"""

from __future__ import annotations

from gprior.checkpoints.containers import read_checkpoint
from gprior.checkpoints.formats import load
from gprior.checkpoints.loading import embedded, find as find, load_prior, save_prior
from gprior.checkpoints.native import (
    digest as digest,
    header as header,
    is_native as is_native,
    skeleton as skeleton,
)

__all__ = [
    "embedded",
    "load",
    "load_prior",
    "read_checkpoint",
    "save_prior",
]
