"""Distances between two images."""

from __future__ import annotations

from gprior.distances.choice import (
    NAMES,
    check_perceptual,
    choose,
    discriminator_unit as discriminator_unit,
)
from gprior.distances.features import FeatureDistance, feature_distance, median_distance
from gprior.distances.lpips import Perceptual
from gprior.distances.metrics import perceptual_scores, scores
from gprior.distances.random_features import random_distance, random_maps

__all__ = [
    "NAMES",
    "FeatureDistance",
    "Perceptual",
    "check_perceptual",
    "choose",
    "feature_distance",
    "median_distance",
    "perceptual_scores",
    "random_distance",
    "random_maps",
    "scores",
]
