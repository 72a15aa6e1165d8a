"""Measurement operators A: deepinv physics with exact adjoints and cheap gradients.

Every operator is a :class:`deepinv.physics.LinearPhysics`: ``A(x)`` applies the noise
model, ``A.A(x)`` does not, ``A.A_adjoint`` and ``A.A_dagger`` are the transpose and the
pseudo-inverse, ``*`` composes and ``.stack`` stacks, with each other and with deepinv's.
"""

from __future__ import annotations

from gprior.operators.base import Operator
from gprior.operators.downsampling import Downsampling
from gprior.operators.masking import Masking
from gprior.operators.partial_circulant import PartialCirculant

__all__ = ["Downsampling", "Masking", "Operator", "PartialCirculant"]
