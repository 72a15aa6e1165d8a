"""Measurement operators A: deepinv physics with exact adjoints and cheap gradients.

Every operator is a :class:`deepinv.physics.LinearPhysics`: ``A(x)`` applies the noise
model, ``A.A(x)`` does not, ``A.A_adjoint`` and ``A.A_dagger`` are the transpose and the
pseudo-inverse, ``*`` composes and ``.stack`` stacks, with each other and with deepinv's.
`from_spec` makes an operator from a short text, as the command line does.
"""

from __future__ import annotations

from gprior.operators.base import Operator
from gprior.operators.downsampling import Downsampling
from gprior.operators.fourier import mri, mri_mask
from gprior.operators.masking import Masking
from gprior.operators.names import (
    OPERATORS,
    from_spec,
    kind_of as kind_of,
    without_path as without_path,
)
from gprior.operators.partial_circulant import PartialCirculant
from gprior.operators.radon import (
    ct,
    equally_spaced as equally_spaced,
    fan_weights as fan_weights,
)

__all__ = [
    "OPERATORS",
    "Downsampling",
    "Masking",
    "Operator",
    "PartialCirculant",
    "ct",
    "from_spec",
    "mri",
    "mri_mask",
]
