"""Where the gradient passes of a search go through the generator: alone, or with other searches.

Several searches can share the generator, see `gprior.batch.together`. Every thread has its own
setting, and the usual one is `Alone`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor

from gprior.priors import Prior

__all__ = ["PASSES", "Passes"]


class Passes(Protocol):
    """The two halves of a gradient pass."""

    def images(self, prior: Prior, inputs: dict[str, Any]) -> Tensor:
        """Return the images (R, C, H, W) of the inputs of the prior."""

    def slopes(self, loss: Tensor, variables: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the gradients of a loss, which depends on these images, in the variables."""


class Alone:
    """The search has the generator for itself."""

    def images(self, prior: Prior, inputs: dict[str, Any]) -> Tensor:
        """Return the images of the inputs."""
        x: Tensor = prior(**inputs)
        return x

    def slopes(self, loss: Tensor, variables: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the gradients of a loss in the variables."""
        # A generator that starts at a later block may not need its latent: the gradient is 0.
        return torch.autograd.grad(loss, variables, materialize_grads=True)


PASSES: ContextVar[Passes] = ContextVar("passes", default=Alone())  # noqa: B039 (has no state)
