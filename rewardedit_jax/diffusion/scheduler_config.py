"""Reading and writing diffusers' `scheduler_config.json` as the fields of a frozen dataclass.

Every noise process is such a dataclass. Its fields are the settings that this package uses. The settings that only
diffusers uses are kept as one JSON text, `unread`, so that a saved model still has them. A string, unlike a dict, is
immutable and hashable: processes are static arguments of `jax.jit`.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any


def read_settings(
    process: type, config: Mapping[str, Any], classes: tuple[str, ...], fixed: Mapping[str, tuple]
) -> dict[str, Any]:
    """Keyword arguments of the dataclass `process` for a diffusers scheduler config.

    Args:
      process: a dataclass with a field `unread` and otherwise the names of diffusers' settings.
      config: the content of `scheduler_config.json`. A setting that is null or absent has its default.
      classes: scheduler classes whose configs `process` can represent.
      fixed: settings that would change samples but are not implemented, and the values at which they do nothing.
    Raises:
      ValueError: for another scheduler class, or another value of a setting in `fixed`.
    """
    given = _given_settings(config)
    class_name = given.pop("_class_name", classes[0])
    if class_name not in classes:
        raise ValueError(
            f"`_class_name={class_name!r}` is not supported: expected a class of the same noise process as {classes[0]}"
        )
    check_choices(given, fixed)
    if class_name != classes[0]:
        given["_class_name"] = class_name  # kept among `unread`; `write_settings` adds the first class by itself

    defaults = {field.name: field.default for field in fields(process) if field.name != "unread"}
    known = {name: value for name, value in given.items() if name in defaults and value is not None}
    unread = {name: value for name, value in given.items() if name not in defaults}
    settings = {name: _of_field(value, defaults[name]) for name, value in known.items()}
    # Sorted keys: two files with the same settings give equal processes, whatever their order.
    return {**settings, "unread": json.dumps(unread, sort_keys=True)}


def write_settings(process: Any, class_name: str) -> dict[str, Any]:
    """The config that `read_settings` reads as `process`. Settings at their default are left out.

    Args:
      process: an instance of the dataclass.
      class_name: the class to name unless the file that `process` was read from had another one.
    """
    changed = {f.name: getattr(process, f.name) for f in fields(process) if getattr(process, f.name) != f.default}
    changed.pop("unread", None)
    return {"_class_name": class_name, **json.loads(process.unread), **changed}


def check_choices(settings: Mapping[str, Any], choices: Mapping[str, tuple]) -> None:
    """Raise ValueError for a setting whose value is not among its `choices`. Absent settings pass."""
    for name, values in choices.items():
        if name in settings and settings[name] not in values:
            expected = " or ".join(map(repr, values))
            raise ValueError(f"`{name}={settings[name]!r}` is not supported: expected {expected}")


def _given_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config without those that the class which wrote it filled in with its own defaults.

    diffusers lists these under `_use_default_values`, and `ConfigMixin.from_config` ignores them likewise: another
    class may have other defaults.
    """
    ignored = ("_use_default_values", *config.get("_use_default_values", ()))
    return {name: value for name, value in config.items() if name not in ignored}


def _of_field(value: Any, default: Any) -> Any:
    """The value with the type of its field: JSON has lists for tuples, and may write 3.0 as 3."""
    if isinstance(default, float):
        return float(value)
    return tuple(value) if isinstance(value, list) else value
