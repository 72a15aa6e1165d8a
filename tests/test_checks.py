"""Checks of numbers that a user gives."""

import math

import numpy as np
import pytest

import gprior
from gprior import InputError, InputTypeError
from gprior.checks import integer, number


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integers(value):
    assert type(integer("steps", value, least=1, most=3)) is int


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "steps must be an integer, got "),
        ({"least": 4}, "steps must be an integer of at least 4, got "),
        ({"most": 2}, "steps must be an integer of at most 2, got "),
        ({"least": 4, "most": 5}, "steps must be an integer from 4 to 5, got "),
    ],
)
@pytest.mark.parametrize("value", [3, 3.0, True, "3", None, math.nan])
def test_what_is_not_an_integer_is_refused(value, limits, message):
    if value == 3 and type(value) is int and not limits:
        return
    with pytest.raises(InputError) as caught:
        integer("steps", value, **limits)
    assert str(caught.value) == f"{message}{value!r}"


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5), np.int64(1)])
def test_numbers(value):
    result = number("lr", value, least=0, most=1, above=0)
    assert type(result) is float and result == value


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "1", True, None, 1j])
def test_what_is_not_a_positive_number_is_refused(value):
    with pytest.raises(InputError, match="lr must be a finite number above 0, got"):
        number("lr", value, above=0)


def test_infinity_where_it_is_allowed():
    assert number("radius", math.inf, least=0, finite=False) == math.inf
    with pytest.raises(InputError, match="radius must be a number of at least 0, got nan"):
        number("radius", math.nan, least=0, finite=False)
    with pytest.raises(InputError, match="share must be a finite number from 0 to 1, got 2"):
        number("share", 2, least=0, most=1)


def test_an_error_of_type_is_also_an_input_error():
    assert issubclass(InputTypeError, InputError) and issubclass(InputTypeError, TypeError)
    assert issubclass(gprior.images.ImageFileError, InputError)


def test_unknown_names_of_the_package():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = gprior.nothing
    assert {"solve", "load_prior", "InputError", "__version__"} <= set(dir(gprior))
