"""The check of a recipe's values against its schema: all faults at once, each with its setting, value and range."""

import difflib
import math
import sys
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import numpy as np
from flax.traverse_util import flatten_dict
from msgspec import Meta, UnsetType

from rewardedit_jax.weights.settings import settings_type


def check_section(values: Mapping[str, Any], schema: type, path: str = "") -> None:
    """Checks a part of a recipe. Raises ValueError with an argument for each fault."""
    faults: list[str] = []
    _read_section(values, schema, f"{path}." if path else "", faults)
    if faults:
        raise ValueError(*faults)


def check_network(
    config: type, described: Mapping[str, Any], path: str, settings: type[msgspec.Struct] | None = None
) -> None:
    """Checks the settings of a network that a recipe describes. Raises as `check_section`.

    Args:
      config: the dataclass of the settings, with a method `from_hf`.
      path: the place of the settings in the recipe, such as "network.unet".
      settings: their types in a config.json, if these are not the types of the dataclass alone.
    """
    check_section(described, settings or settings_type(config), path)
    try:
        config.from_hf(described)
    except (AttributeError, TypeError, ValueError) as error:  # the first two: of a section such as `rope_scaling`
        raise ValueError(f"{path}: {error}") from error


def _read_section(values: Mapping[str, Any], schema: type, prefix: str, faults: list[str]) -> Any:
    """The Struct of a section; what is wrong is appended to `faults`."""
    before, fields = len(faults), {field.name: field for field in msgspec.structs.fields(schema)}
    if schema.__struct_config__.forbid_unknown_fields:
        faults += [_unknown(prefix, name, fields) for name in values if name not in fields]
    faults += [f"{prefix}{name} is missing" for name in fields if fields[name].required and name not in values]
    given = {name: values[name] for name in fields if name in values}
    read = {name: _read_value(value, fields[name].type, prefix + name, faults) for name, value in given.items()}
    if len(faults) == before:
        try:
            return schema(**read)  # rules between settings are in `__post_init__`
        except ValueError as error:
            faults += error.args
    return None


def _read_value(value: Any, type_: Any, path: str, faults: list[str]) -> Any:
    if isinstance(value, Mapping) and (section := _section_in(type_)):
        return _read_section(value, section, f"{path}.", faults)
    # NumPy's numbers, such as those of a sweep in Python, are taken as Python's.
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, dict):  # of a network or a noise process, whose values may have any type
        settings = {".".join(map(str, keys)): x for keys, x in flatten_dict({path: value}).items()}
        faults += [f"{name}={x!r}: expected finite numbers" for name, x in settings.items() if not _is_finite(x)]
    try:
        if _is_finite(value):
            return msgspec.convert(value, type_)
    except msgspec.ValidationError:
        pass  # its message names one bound instead of the range, and not the values of a Literal
    faults.append(f"{path}={value!r}: expected {_expected(type_)}")
    return None


def _section_in(type_: Any) -> type[msgspec.Struct] | None:
    """The section that values of a type are, also of one that may be None; None: it is no section."""
    sections = (t for t in (type_, *get_args(type_)) if isinstance(t, type) and issubclass(t, msgspec.Struct))
    return next(sections, None)


def _is_finite(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _unknown(prefix: str, name: str, known: Mapping[str, Any]) -> str:
    similar = difflib.get_close_matches(str(name), known, 1)
    return f"{prefix}{name} is not a setting" + (f": did you mean {prefix}{similar[0]}?" if similar else "")


def _expected(type_: Any) -> str:
    """The values of a type, in words."""
    origin, arguments = get_origin(type_), get_args(type_)
    if origin is Literal:
        return f"one of {', '.join(value or repr(value) for value in arguments)}"
    if origin in (Union, UnionType):  # of `|` between types of `typing`, or of others
        return ", or ".join(_expected(argument) for argument in arguments if argument is not UnsetType)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"a tuple, each value {_expected(arguments[0])}"
        return f"({', '.join(map(_expected, arguments))})"
    if origin is Annotated:
        return _expected(arguments[0]) + _restriction(arguments[1])
    words = {int: "an integer", float: "a finite number", bool: "True or False", str: "a text", type(None): "None"}
    return words.get(type_, "a dict")


def _restriction(meta: Meta) -> str:
    bounds = {">": meta.gt, ">=": meta.ge, "<": meta.lt, "<=": meta.le}
    # A bound of that size says that the number is finite.
    shown = [f"{sign} {x:.10g}" for sign, x in bounds.items() if x is not None and abs(x) < sys.float_info.max]
    shown += [f"a multiple of {meta.multiple_of}"] if meta.multiple_of else []
    parts = [" " + " and ".join(shown) if shown else "", ", not empty" if meta.min_length else ""]
    return "".join(parts) + (f" ({meta.description})" if meta.description else "")
