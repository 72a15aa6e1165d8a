"""Errors that a user can correct, and checks of the numbers that a user gives."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

__all__ = ["InputError", "InputTypeError", "integer", "number"]


class InputError(ValueError):
    """A mistake in an argument or a file, or in a combination of them, that the user can correct.

    The message names the argument, the rule, the value and the remedy. Any other `ValueError`
    that the package raises is a bug.
    """


class InputTypeError(InputError, TypeError):
    """An `InputError` about the type of an argument, or about a name that does not exist."""


InputError.__module__ = InputTypeError.__module__ = "gprior"  # where users find them


def integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Check an integer that a user gave.

    Integers of NumPy are accepted. Booleans and floats are not.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : object
        Value of the argument.
    least, most : int, optional
        Smallest and largest allowed value.

    Returns
    -------
    int
        The value as Python's ``int``.

    Raises
    ------
    InputTypeError
        If the value is not an integer.
    InputError
        If it is out of range.

    Examples
    --------
    >>> integer("steps", 3, least=1)
    3
    >>> integer("steps", True, least=1)
    Traceback (most recent call last):
    gprior.InputTypeError: steps must be an integer of at least 1, got True
    """
    low, high = -math.inf if least is None else least, math.inf if most is None else most
    message = f"{name} must be an integer{_range(least, most)}, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputTypeError(message)
    if not low <= int(value) <= high:
        raise InputError(message)
    return int(value)


def number(
    name: str,
    value: Any,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    finite: bool = True,
) -> float:
    """Check a real number that a user gave.

    Integers and the numbers of NumPy are accepted. Booleans and NaN are not.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : object
        Value of the argument.
    least, most : float, optional
        Smallest and largest allowed value.
    above : float, optional
        The value must be larger than this.
    finite : bool
        Whether infinity is refused.

    Returns
    -------
    float
        The value as Python's ``float``.

    Raises
    ------
    InputTypeError
        If the value is not a real number.
    InputError
        If it is NaN, or out of range.

    Examples
    --------
    >>> number("lr", "a", above=0)
    Traceback (most recent call last):
    gprior.InputTypeError: lr must be a finite number above 0, got 'a'
    """
    rule = "a finite number" if finite else "a number"
    limit = _range(least, most) if above is None else f" above {above:g}"
    message = f"{name} must be {rule}{limit}, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputTypeError(message)
    given = float(value)
    low, high = -math.inf if least is None else least, math.inf if most is None else most
    fits = low <= given <= high and (above is None or given > above)  # False for NaN
    if not fits or (finite and math.isinf(given)):
        raise InputError(message)
    return given


def _range(least: float | None, most: float | None) -> str:
    """Return a range in words, for a message."""
    if least is None and most is None:
        return ""
    if most is None:
        return f" of at least {least}"
    return f" of at most {most}" if least is None else f" from {least} to {most}"
