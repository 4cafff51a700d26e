"""Settings of published config.json files that have several forms."""

from typing import Any


def single_value(value: Any) -> Any:
    """The value that all elements of a list have; any other value, and a list of different ones, as it is."""
    equal = isinstance(value, list | tuple) and len(value) > 0 and all(element == value[0] for element in value)
    return value[0] if equal else value
