"""Rows of what a search keeps: tensors (R, ...), lists of R, and dictionaries of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["Variables", "copy", "detach", "join", "put", "take"]

Variables = dict[str, Tensor]  # what is searched, by name, each (R, ...)
Tree = TypeVar("Tree")


def take(tree: Tree, rows: Tensor) -> Tree:
    """Return some of the rows, in the order of their numbers (r,).

    >>> take({"z": torch.arange(3), "why": ["a", "b", "c"]}, torch.tensor([2, 0]))
    {'z': tensor([2, 0]), 'why': ['c', 'a']}
    """
    value: Any = tree
    if isinstance(value, dict):
        return {name: take(part, rows) for name, part in value.items()}  # type: ignore[return-value]
    if isinstance(value, list):
        return [value[i] for i in rows.tolist()]  # type: ignore[return-value]
    picked: Any = value[rows.to(value.device)]
    return picked  # type: ignore[no-any-return]


def join(trees: Sequence[Tree]) -> Tree:
    """Return the rows of all trees, one tree after the other."""
    first: Any = trees[0]
    values: Any = trees
    if isinstance(first, dict):
        return {name: join([value[name] for value in values]) for name in first}  # type: ignore[return-value]
    if isinstance(first, list):
        return [item for value in values for item in value]  # type: ignore[return-value]
    return torch.cat(list(values))  # type: ignore[return-value]


def put(tree: Any, rows: Tensor, new: Any) -> None:
    """Write new rows (r, ...) in place of those of the numbers (r,)."""
    if isinstance(tree, dict):
        for name, part in tree.items():
            put(part, rows, new[name])
    elif isinstance(tree, list):
        for row, item in zip(rows.tolist(), new, strict=True):
            tree[row] = item
    else:
        tree[rows.to(tree.device)] = new.detach()


def copy(tree: Tree) -> Tree:
    """Return the same rows in memory of their own."""
    value: Any = tree
    if isinstance(value, dict):
        return {name: copy(part) for name, part in value.items()}  # type: ignore[return-value]
    if isinstance(value, list):
        return list(value)  # type: ignore[return-value]
    return value.detach().clone()  # type: ignore[no-any-return]


def detach(variables: Variables, grad: bool = False) -> Variables:
    """Return the variables cut from their history, asking for gradients or not."""
    return {name: v.detach().requires_grad_(grad) for name, v in variables.items()}
