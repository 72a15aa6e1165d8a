"""Items of measurements: their names, and what belongs to each alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from gprior.checks import InputError, InputTypeError

__all__ = ["Item", "as_items", "checked_name", "unique"]

LONGEST = 200  # characters of a name; file systems allow 255 bytes


@dataclass(frozen=True)
class Item:
    """One measurement, and what belongs to it alone.

    Attributes
    ----------
    id : str
        Its name, unlike that of any other item: letters, digits and ``._+-`` (it is the name of
        the folder of its results).
    y : Tensor, array, list of Tensor or callable
        The measurement, **without** a batch dimension, or a function without arguments that
        returns it. A function is called when it is the item's turn, so that not all measurements
        are in memory.
    A : object, optional
        Its operator; None takes that of `solve_many`.
    label, noise_std, seed : optional
        See `gprior.solve`; None takes that of `solve_many`.
    """

    id: str
    y: Any
    A: Any = None
    label: int | None = None
    noise_std: float | None = None
    seed: int | None = None


def as_items(items: Any) -> list[Item]:
    """Return items from `Item` objects, mappings with their fields, or pairs (id, y).

    Raises
    ------
    InputError
        If there is none, or two have one id.
    InputTypeError
        If an item is none of these.
    """
    if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
        raise InputTypeError(f"items must be a sequence of items, got {type(items).__name__}")
    found = [_item(value) for value in items]
    unique([item.id for item in found])
    return found


def _item(value: Any) -> Item:
    known = [f.name for f in fields(Item)]
    if isinstance(value, Mapping):
        if set(value) - set(known) or not {"id", "y"} <= set(value):
            raise InputTypeError(
                f"items as mappings must have id and y, and of {known}; got {sorted(value)}"
            )
        value = Item(**value)
    elif isinstance(value, tuple) and len(value) == 2:
        value = Item(*value)
    if not isinstance(value, Item):
        raise InputTypeError(
            f"items must be gprior.Item, mappings or pairs (id, y), got {type(value).__name__}"
        )
    checked_name(value.id)
    return value


def checked_name(name: Any) -> str:
    """Return the id of an item, or refuse one that cannot be the name of a folder.

    Examples
    --------
    >>> checked_name("case-17.nii.gz")
    'case-17.nii.gz'
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w+-][\w.+-]*", name):
        raise InputError(
            f"id must be of letters, digits and ._+- and not begin with a dot, got {name!r}"
        )
    if len(name.encode()) > LONGEST:
        raise InputError(f"id must have at most {LONGEST} bytes, got {name[:20]!r}... of more")
    return name


def unique(ids: Sequence[str]) -> None:
    """Refuse a run without items, and two items of one id."""
    if not ids:
        raise InputError("items must be at least one, got none")
    seen: set[str] = set()
    twice = sorted({name for name in ids if name in seen or seen.add(name)})  # type: ignore[func-returns-value]
    if twice:
        raise InputError(
            f"id must be different for each item, but {', '.join(twice[:5])} "
            f"{'is' if len(twice) == 1 else 'are'} there more than once; rename the items"
        )
