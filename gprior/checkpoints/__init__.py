"""Loading priors from files, and saving them.

Three kinds of files become priors: gprior's native format, the weights embedded in the package,
and checkpoints of StyleGAN2 and BigGAN that other projects published. The modules from the bytes
of a file up to a prior:

- ``containers``, ``archives``, ``pickles`` and ``inert`` turn a published file into plain data.
  Nothing that a file names is ever imported or called.
- ``tensors`` and ``layout`` check the tensors that were read; ``rosinality``, ``nvlabs``,
  ``nvlabs_tf``, ``biggan`` and ``biggan_readers`` know how each project names and scales them.
- ``formats`` recognises which of these a file is; ``native`` is gprior's own format; ``loading``
  has the functions that users call.
"""

from __future__ import annotations

from gprior.checkpoints.containers import read_checkpoint
from gprior.checkpoints.formats import load
from gprior.checkpoints.loading import (
    embedded,
    find as find,
    load_encoder,
    load_prior,
    save_prior,
)
from gprior.checkpoints.native import (
    digest as digest,
    header as header,
    is_native as is_native,
    skeleton as skeleton,
)

__all__ = [
    "embedded",
    "load",
    "load_encoder",
    "load_prior",
    "read_checkpoint",
    "save_prior",
]
