"""What a prior offers beside `Prior` if its ``inputs`` have a certain name.

A solver names the inputs that it needs. A prior whose ``inputs`` contain ``"noise"`` also has the
methods of `HasNoise`, and so on; `typing.cast` says so to a type checker.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

__all__ = ["HasBlocks", "HasContent", "HasEmbedding", "HasFilters", "HasNoise", "HasPhase"]


class HasNoise(Protocol):
    """A prior with the input ``"noise"``."""

    def noise_maps(self) -> list[Tensor]:
        """Return the constant noise maps, each (1, 1, r, r)."""


class HasContent(Protocol):
    """A prior with the input ``"content"``, which replaces a learned constant."""

    @property
    def const(self) -> Tensor:
        """The learned constant (1, channels, 4, 4)."""

    @property
    def content_shape(self) -> tuple[int, int, int]:
        """Shape (channels, 4, 4) of the constant."""


class HasFilters(Protocol):
    """A prior with the input ``"filters"``: one style per output filter."""

    @property
    def num_filters(self) -> int:
        """The largest number of output filters of a layer."""


class HasBlocks(Protocol):
    """A prior with the input ``"state"``, which can start at any of its blocks."""

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""

    def run_blocks(self, *args: Any, **inputs: Any) -> Any:
        """Return the state (features, rgb) after some of the blocks."""


class HasPhase(Protocol):
    """A prior of complex images with the input ``"phase"``, a map that is added to its phase."""

    @property
    def phase_size(self) -> int:
        """Side of the map."""


class HasEmbedding(Protocol):
    """A prior with the input ``"embedding"``: the embedding of the class."""

    def embed(self, c: Tensor) -> Tensor:
        """Return the embedding (B, embed_dim) of class vectors (B, c_dim)."""
