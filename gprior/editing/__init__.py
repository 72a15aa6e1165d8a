"""Edits of reconstructions: other latents, and parts of one image placed into another."""

from __future__ import annotations

from gprior.editing.axes import Direction, class_direction, directions
from gprior.editing.blending import blend
from gprior.editing.edits import Edited, edit, interpolate
from gprior.editing.heads import neighbours
from gprior.editing.series import Attribute, discover

__all__ = [
    "Attribute",
    "Direction",
    "Edited",
    "blend",
    "class_direction",
    "directions",
    "discover",
    "edit",
    "interpolate",
    "neighbours",
]
