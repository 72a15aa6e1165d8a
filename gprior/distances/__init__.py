"""How far two images are apart."""

from __future__ import annotations

from gprior.distances.features import FeatureDistance, feature_distance, median_distance
from gprior.distances.lpips import (
    NAMES,
    Perceptual,
    check_perceptual,
    choose,
    random_distance,
    random_maps,
)
from gprior.distances.metrics import perceptual_scores, scores

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
