"""A linear operator A seen row by row, with its adjoint and its size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gprior.problem import Leaves, Problem
from gprior.randomness import normal

__all__ = ["LinearRows", "inner", "spread_out"]


class LinearRows:
    """A, its adjoint and its size, for the rows of a problem.

    The adjoint is the vector-Jacobian product of A. Its graph is built once, because it is the
    same at every image if A is linear.

    Parameters
    ----------
    problem : Problem
        R rows.

    Attributes
    ----------
    norm2 : Tensor
        Upper estimate of the largest eigenvalue of A^T A for each row, (R,).
    gain : Tensor
        Root mean square of the columns of A, estimated from one random image, (R,).
    pixels : int
        Number n of the numbers of an image.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        shape = problem.forward.image_shape
        keys = [(0, "correction", "norm")] * len(problem)
        u = normal(keys, shape, problem.prior.like)
        with torch.enable_grad():
            self._x = torch.zeros_like(u).requires_grad_()
            self._measured = problem.measure(self._x)
        self._offset = [leaf.detach() for leaf in self._measured]
        self.pixels = math.prod(shape)
        self.gain = (inner(self.forward(u), self.forward(u)) / self.pixels).sqrt()
        self.norm2 = self._power(u)

    def forward(self, x: Tensor) -> Leaves:
        """Return A x."""
        with torch.no_grad():
            return [p - o for p, o in zip(self.problem.measure(x), self._offset, strict=True)]

    def residual(self, x: Tensor) -> Leaves:
        """Return A x - y."""
        with torch.no_grad():
            measured = self.problem.measure(x)
            return [p - y for p, y in zip(measured, self.problem.y, strict=True)]

    def adjoint(self, r: Leaves) -> Tensor:
        """Return A^T r, (R, C, H, W)."""
        (x,) = torch.autograd.grad(self._measured, self._x, r, retain_graph=True)
        return x

    def _power(self, u: Tensor, iterations: int = 12) -> Tensor:
        for _ in range(iterations):
            u = u / spread_out(inner([u], [u]).sqrt().clamp_min(1e-30), u)
            u = self.adjoint(self.forward(u))
        return 1.1 * inner([u], [u]).sqrt()

    def are_linear(self, tolerance: float = 1e-3) -> Tensor:
        """Return where A is linear up to a constant and `adjoint` its adjoint, (R,) bool."""
        keys = [[(k, "correction", "linear")] * len(self.problem) for k in range(2)]
        shape, like = self.problem.forward.image_shape, self.problem.prior.like
        u, v = (normal(key, shape, like) for key in keys)
        Au, Av, both = self.forward(u), self.forward(v), self.forward(u + 2 * v)
        wrong = [c - a - 2 * b for a, b, c in zip(Au, Av, both, strict=True)]
        linear = inner(wrong, wrong).sqrt() <= tolerance * inner(both, both).sqrt()
        left, right = inner(Au, Av), inner([u], [self.adjoint(Av)])
        size = (inner(Au, Au) * inner(Av, Av)).sqrt()
        return linear & ((left - right).abs() <= tolerance * size)


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Return the inner product of each row, (R,)."""
    parts = [(u * v.conj()).real.flatten(1).sum(1) for u, v in zip(a, b, strict=True)]
    return torch.stack(parts).sum(0)


def spread_out(values: Tensor, like: Tensor) -> Tensor:
    """Return values (R,) in the shape (R, 1, ...) that multiplies ``like``."""
    return values.view(-1, *[1] * (like.ndim - 1))
