"""Edits of reconstructions: other latents, and parts of one image placed into another."""

from __future__ import annotations

from gprior.editing.blending import blend

__all__ = ["blend"]
