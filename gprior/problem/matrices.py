"""Operators that are matrices: tensors, arrays, and those of SciPy, acting on ``x.flatten(1)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from gprior.checks import InputError

__all__ = [
    "as_scipy",
    "checked_matrix",
    "checked_operator",
    "coordinates_of",
    "in_double",
    "through_numpy",
]

STACK = "; stack its real and imaginary rows, and those of y"


def checked_matrix(matrix: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """Return a real matrix (m, C H W), refused unless it acts on such images."""
    n = int(np.prod(image_shape))
    if matrix.ndim != 2 or matrix.shape[1] != n:
        raise InputError(
            f"a matrix A must have shape (m, {n}) to act on images {image_shape}, "
            f"got {tuple(matrix.shape)}"
        )
    if matrix.is_complex():
        raise InputError(f"a matrix A must be real{STACK}")
    return matrix


def coordinates_of(matrix: Tensor) -> Tensor:
    """Return a sparse matrix of any layout in the coordinate layout."""
    sparse_matrix: Tensor = matrix.to_sparse_coo().coalesce()  # type: ignore[no-untyped-call]
    return sparse_matrix


def as_scipy(matrix: Tensor) -> Any:
    """Return a dense or sparse matrix in float64, as NumPy or SciPy has it."""
    matrix = matrix.detach().cpu().double()
    if matrix.layout == torch.strided:
        return matrix.numpy()
    matrix = coordinates_of(matrix)
    entries = (matrix.values().numpy(), matrix.indices().numpy())
    return sparse.coo_matrix(entries, shape=tuple(matrix.shape)).tocsr()


def in_double(operator: LinearOperator) -> LinearOperator:
    """Return an operator on float64 vectors that gives the operator vectors of its own dtype."""
    dtype = operator.dtype
    if dtype is None or not np.issubdtype(dtype, np.inexact):
        return operator  # integers and booleans meet float64

    def converted(product: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda v: np.asarray(product(np.asarray(v, dtype=dtype)), dtype=np.float64)

    return LinearOperator(
        operator.shape,
        matvec=converted(operator.matvec),
        rmatvec=converted(operator.rmatvec),
        matmat=converted(operator.matmat),
        rmatmat=converted(operator.rmatmat),
        dtype=np.float64,
    )


def checked_operator(operator: LinearOperator, image_shape: tuple[int, int, int]) -> LinearOperator:
    """Return a SciPy operator on float64 vectors, refused unless it fits and has a transpose."""
    n = int(np.prod(image_shape))
    if operator.shape[1] != n:
        raise InputError(
            f"A must have shape (m, {n}) to act on images {image_shape}, got {operator.shape}"
        )
    if np.issubdtype(operator.dtype, np.complexfloating):
        raise InputError(f"a SciPy operator A must be real{STACK}")
    operator = in_double(operator)
    try:
        operator.rmatvec(np.zeros(operator.shape[0]))
    except (NotImplementedError, TypeError) as error:
        raise InputError("a SciPy LinearOperator A needs rmatvec, its transpose") from error
    return operator


def through_numpy(operator: LinearOperator) -> Callable[[Tensor], Tensor]:
    """Return a SciPy operator on ``x.flatten(1)`` as a differentiable function."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return _columns(operator.matmat, x)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return _columns(operator.rmatmat, grads[0])

    return lambda x: Product.apply(x.flatten(1))


def _columns(product: Callable[[Any], Any], x: Tensor) -> Tensor:
    columns = x.detach().cpu().double().numpy().T
    return torch.from_numpy(np.ascontiguousarray(product(columns).T)).to(x)
