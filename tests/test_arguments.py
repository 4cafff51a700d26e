"""Values from Python callers: what counts as a number, and what the error of another value names."""

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from rewardedit_jax.arguments import as_array, as_integer, as_number, check_dtype, check_path, shown

NO_NUMBERS = [None, "3", b"3", True, np.bool_(True), jnp.array(True), 3j, [3], (3,), np.ones(1), jnp.ones(2), Path("3")]


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3), jnp.array(3), jnp.int32(3)])
def test_integers(value):
    assert type(as_integer("steps", value, 1, 3)) is int
    assert as_integer("steps", value) == 3


@pytest.mark.parametrize("value", [*NO_NUMBERS, 3.0, np.float32(3), float("nan")], ids=repr)
def test_what_is_no_integer(value):
    with pytest.raises(ValueError, match=r"^steps=.*expected an integer of at least 1\."):
        as_integer("steps", value, 1)


def test_integers_out_of_range():
    with pytest.raises(ValueError, match=r"seed=-1: .*0\.\.9"):
        as_integer("seed", -1, 0, 9)
    with pytest.raises(ValueError, match=r"seed=array\(10\): "):
        as_integer("seed", np.array(10), 0, 9)


@pytest.mark.parametrize(
    "value", [3, 3.0, Fraction(3), np.float16(3), np.float64(3), np.int8(3), np.array(3.0), jnp.bfloat16(3)], ids=repr
)
def test_numbers(value):
    assert type(as_number("scale", value)) is float
    assert as_number("scale", value, 0, 5) == 3.0


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -np.inf, np.float32("nan"), 1e39, 10**400, np.array(np.inf)]
)
def test_numbers_that_are_not_finite_in_float32(value):
    with pytest.raises(ValueError, match=r"^scale=.*expected a finite number"):
        as_number("scale", value)


@pytest.mark.parametrize("value", [*NO_NUMBERS, Decimal(3)], ids=repr)
def test_what_is_no_number(value):
    with pytest.raises(ValueError, match=r"^scale=.*expected a finite number"):
        as_number("scale", value)


@pytest.mark.parametrize("value", [[[1, 2]], np.float64([[1, 2]]), jnp.bfloat16([[1, 2]]), np.uint8([[1, 2]])])
def test_arrays_become_float32(value):
    array = as_array("latents", value)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, [[1, 2]])


@pytest.mark.parametrize("value", ["noise", [[1], [2, 3]], [True], [1j], None, [Path("3")]], ids=repr)
def test_what_is_no_array_of_numbers(value):
    with pytest.raises(ValueError, match=r"^latents=.*array of numbers"):
        as_array("latents", value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
def test_arrays_that_are_not_finite_in_float32(bad):
    with pytest.raises(ValueError, match=r"^latents: 1 of 3 values"):
        as_array("latents", [0, bad, 1])


def test_paths_and_names():
    for value in ("shapes", "owner/name", Path("runs") / "demo"):
        check_path("model", value)
    for value in (None, 5, b"shapes", "", ["shapes"], "a\0b"):
        with pytest.raises(ValueError, match=r"^model=.*path"):
            check_path("model", value)


def test_types_of_networks():
    for value in ("float32", "bfloat16", np.float16, jnp.bfloat16, np.dtype("float32")):
        check_dtype("dtype", value)
    for value in ("fp16", "float8_e4m3fn", "int8", float, np.float64, None, 16, "half precision", True):
        with pytest.raises(ValueError, match=r"^dtype=.*'bfloat16'"):
            check_dtype("dtype", value)


def test_errors_show_arrays_by_type_and_shape():
    assert shown(jnp.zeros((2, 3))) == "float32[2, 3]"
    assert shown(np.float32(2)) == repr(np.float32(2))
    assert "float64" in shown(np.float64)
    assert len(shown("x" * 1000)) < 50
