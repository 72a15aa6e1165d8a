"""Path-length regularization of a generator (Karras et al. 2020, arXiv:1912.04958, equation 4).

It asks that a step of a given length in w changes the image by the same amount everywhere. Methods
that search in w then meet a better conditioned problem.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["PathLength", "path_lengths"]

EVERY = 4  # steps between two uses
DECAY = 0.01  # of the average of lengths


def path_lengths(images: Tensor, ws: Tensor, y: Tensor) -> Tensor:
    """Return ||J^T y|| of each image, with J = d image / d w.

    Parameters
    ----------
    images : Tensor
        (B, C, H, W), computed from `ws`. The result keeps the graph, so it has gradients.
    ws : Tensor
        (B, L, d), one style for each layer, or (B, L, rows, d) with one for each output filter. The
        mean is taken over the squares of the L lengths. The length of a layer is that of its whole
        matrix, which is sqrt(rows) times the root mean square of the lengths of its rows.
    y : Tensor
        (B, C, H, W). Standard normal numbers; they are divided by the square root of H W.
    """
    y = y / math.sqrt(y.shape[2] * y.shape[3])
    (grad,) = torch.autograd.grad((images * y).sum(), ws, create_graph=True)
    # The small number keeps the gradient of the root finite.
    return (grad.square().flatten(2).sum(2).mean(1) + 1e-16).sqrt()


class PathLength:
    """The penalty E (||J^T y|| - a)^2, where a is a moving average of the lengths.

    Parameters
    ----------
    weight : float
        Weight of the penalty, 2 in StyleGAN2; 0 switches it off. It acts at every fourth step
        with four times the weight.
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.mean = 0.0

    @property
    def ratio(self) -> float:
        """Factor for the learning rate of an optimizer that takes these steps as well."""
        return EVERY / (EVERY + 1) if self.weight else 1.0

    def due(self, step: int) -> bool:
        """Return whether the penalty acts at a step."""
        return self.weight > 0 and step % EVERY == 0

    def penalty(self, images: Tensor, ws: Tensor, y: Tensor) -> Tensor:
        """Return the weighted penalty, a scalar, and update the average; see `path_lengths`."""
        lengths = path_lengths(images, ws, y)
        self.mean += DECAY * (float(lengths.detach().mean()) - self.mean)
        return (lengths - self.mean).square().mean() * (self.weight * EVERY)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {"mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint."""
        self.mean = float(state["mean"])
