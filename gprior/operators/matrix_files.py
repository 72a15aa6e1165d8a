"""Matrices as operators, read from files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from gprior.checks import InputError

__all__ = ["read_matrix"]


def read_matrix(path: Path, image_shape: tuple[int, int, int]) -> Any:
    """Read a matrix that acts on flattened images. Code inside a file never runs.

    Parameters
    ----------
    path : Path
        A dense matrix (``.npy``), or a sparse one that `scipy.sparse.save_npz` wrote (``.npz``).
    image_shape : tuple of int
        Shape (C, H, W) of the images.

    Returns
    -------
    ndarray or scipy.sparse matrix
        Shape (m, C H W); float32 if it is dense, else float64.

    Raises
    ------
    InputError
        If the file is damaged, or does not have one real matrix of such a shape.
    OSError
        If the file cannot be opened.
    """
    n = math.prod(image_shape)
    matrix = _load(path)
    values = matrix.data if sparse.issparse(matrix) else matrix
    if matrix.ndim != 2 or matrix.shape[1] != n or matrix.shape[0] < 1:
        raise InputError(
            f"matrix {path} must have shape (m, {n}) to act on images {tuple(image_shape)}, "
            f"got {matrix.shape}"
        )
    if values.dtype.kind not in "buif" or not np.isfinite(values).all():
        raise InputError(f"matrix {path} must have real, finite numbers, got {values.dtype}")
    return matrix.astype(np.float64) if sparse.issparse(matrix) else matrix.astype(np.float32)


def _load(path: Path) -> Any:
    if "\0" in str(path):
        raise InputError(f"matrix must be the path of a file, got {str(path)!r}")
    is_sparse = path.suffix == ".npz"
    try:
        with path.open("rb") as stream:  # numpy does not close a file that it cannot read
            matrix = sparse.load_npz(stream) if is_sparse else np.load(stream, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # the parsers of numpy and zipfile have many errors
        how = "scipy.sparse.save_npz" if is_sparse else "numpy.save"
        kind = "sparse matrix" if is_sparse else ".npy file of numbers"
        raise InputError(f"{path} is not a whole {kind}; write it with {how}") from error
    if not is_sparse and not isinstance(matrix, np.ndarray):
        raise InputError(f"{path} is not a whole .npy file of numbers; write it with numpy.save")
    return matrix
