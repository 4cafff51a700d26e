"""Checks of values that Python callers pass. Each error names the argument, its value and what is expected."""

import math
import reprlib
from numbers import Integral, Real
from os import PathLike
from typing import Any

import numpy as np

LARGEST = float(np.finfo(np.float32).max)  # numbers enter the networks as float32
_DTYPES = ("float32", "bfloat16", "float16")


def shown(value: Any) -> str:
    """The value as an error shows it: arrays as dtype[shape], long values shortened."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:  # NumPy's scalars have an empty shape, its types a descriptor
        return f"{getattr(value, 'dtype', type(value).__name__)}{list(shape)}"
    return reprlib.repr(value)


def as_integer(name: str, value: Any, least: Real = -math.inf, most: Real = math.inf) -> int:
    """An integer of Python, NumPy, JAX or PyTorch as `int`.

    Raises:
      ValueError: another type (booleans included), or an integer outside `least`..`most`.
    """
    number = _python_number(value)
    if not isinstance(number, Integral) or not least <= number <= most:
        limits = f" in {least}..{most}" if most < math.inf else f" of at least {least}" if least > -math.inf else ""
        raise ValueError(f"{name}={shown(value)}: expected an integer{limits}.")
    return int(number)


def as_number(name: str, value: Any, least: Real = -LARGEST, most: Real = LARGEST) -> float:
    """A number of Python, NumPy, JAX or PyTorch as `float`.

    Raises:
      ValueError: another type (booleans included), NaN, infinity, or a number outside `least`..`most`.
    """
    number = _python_number(value)
    if not isinstance(number, Real) or not least <= number <= most:  # the comparison is also False for NaN
        limits = "a finite number" if most == LARGEST else f"a number in {least:g}..{most:g}"
        raise ValueError(f"{name}={shown(value)}: expected {limits}.")
    return float(number)


def as_array(name: str, value: Any) -> np.ndarray:
    """An array of finite numbers as float32. Raises ValueError for anything else."""
    import jax.numpy as jnp  # here and below, as commands that run no network start without JAX

    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on another device
        raise ValueError(f"{name}={shown(value)}: expected an array of numbers ({error}).") from error
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise ValueError(f"{name}={shown(value)}: expected an array of numbers, not of {array.dtype}.")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
        array = array.astype(np.float32)
    if bad := np.size(array) - np.count_nonzero(np.isfinite(array)):
        raise ValueError(f"{name}: {bad} of {array.size} values are NaN or infinite in float32; expected finite ones.")
    return array


def is_text(value: Any) -> bool:
    """Whether a value is a str without lone surrogates, which are no characters and which tokenizers refuse."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def check_path(name: str, value: Any) -> None:
    """Raises ValueError unless the value can be a path or the name of a model."""
    if not isinstance(value, str | PathLike) or not str(value) or "\0" in str(value):
        raise ValueError(f"{name}={shown(value)}: expected a path or a name, as a str or a pathlib.Path.")


def check_dtype(name: str, value: Any) -> None:
    """Raises ValueError unless the value is a type that networks compute in."""
    import jax.numpy as jnp

    try:
        known = value is not None and jnp.dtype(value).name in _DTYPES  # NumPy reads None as float64
    except TypeError:
        known = False
    if not known:
        raise ValueError(f"{name}={shown(value)}: expected {', '.join(map(repr, _DTYPES))}.")


def _python_number(value: Any) -> Any:
    """A scalar, or an array without axes, as the Python number that it holds; None for booleans."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, bool) else value
