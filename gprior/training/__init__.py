"""Training of StyleGAN2 priors, behind ``gprior train``."""

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
