"""Trains StyleGAN2 priors; ``gprior train`` is the command.

``data`` makes an `ImageSet` of a folder or of the phantoms that ``head_phantoms`` draws; ``slices``
and ``folder`` find the images of a folder, report what was passed over, and hold patients out. A
`Trainer` trains on it, measures its progress with ``frechet``, and returns the prior. An
`EncoderTrainer` trains a network that predicts the latents of a prior; both are a ``run`` that can
be resumed. ``pictures`` draws the curve and samples of a run.
"""

from __future__ import annotations

from gprior.training.data import ImageSet, folder_set, phantom_set, read_survey as read_survey
from gprior.training.encoder import EncoderSettings, EncoderTrainer
from gprior.training.folder import Survey as Survey, survey_folder as survey_folder
from gprior.training.frechet import frechet_distance, random_features
from gprior.training.head_phantoms import CONTRASTS, phantoms
from gprior.training.pictures import draw_curve as draw_curve, draw_samples as draw_samples
from gprior.training.run import Run as Run
from gprior.training.slices import (
    Choice as Choice,
    files_in as files_in,
    is_image as is_image,
)
from gprior.training.trainer import Settings, Trainer, lacking_spread

__all__ = [
    "CONTRASTS",
    "EncoderSettings",
    "EncoderTrainer",
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
