"""Trains StyleGAN2 priors; ``gprior train`` is the command.

``data`` makes an `ImageSet` of a folder or of the phantoms that ``head_phantoms`` draws. A
`Trainer` trains on it, measures its progress with ``frechet``, and returns the prior. ``pictures``
draws the curve and samples of a run.
"""

from __future__ import annotations

from gprior.training.data import ImageSet, folder_set, phantom_set
from gprior.training.frechet import frechet_distance, random_features
from gprior.training.head_phantoms import CONTRASTS, phantoms
from gprior.training.pictures import draw_curve as draw_curve, draw_samples as draw_samples
from gprior.training.trainer import Settings, Trainer, lacking_spread

__all__ = [
    "CONTRASTS",
    "ImageSet",
    "Settings",
    "Trainer",
    "folder_set",
    "frechet_distance",
    "lacking_spread",
    "phantom_set",
    "phantoms",
    "random_features",
]
