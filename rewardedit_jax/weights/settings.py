"""Types and ranges of the settings in a config.json, from the config class of a network."""

import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import reduce
from operator import or_
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

_LARGEST = sys.float_info.max
# Numbers are positive, except these and token ids.
_LEAST = {"freq_shift": 0, "fullatt_block_indexes": 0, "shift_factor": -_LARGEST}
_LEAST |= dict.fromkeys(["dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"], 0)


def settings_type(config: type, *, lists: Sequence[str] = (), nullable: bool = False, **sections: Any) -> type[Struct]:
    """The msgspec type of a config.json, or of a section of it. Settings may be missing; unknown ones are ignored.

    Args:
      config: a dataclass whose fields have the names of the settings.
      lists: settings that may also be lists, which `config` then has to read.
      nullable: whether every setting may be null.
      sections: further settings and their types.
    """
    hints = get_type_hints(config)
    hints = {field.name: hints[field.name] for field in fields(config)}
    # Parts of a network with a config of their own are sections, which may have other names.
    plain = {name: hint for name, hint in hints.items() if not any(map(is_dataclass, (hint, *get_args(hint))))}
    types = {name: _bounded(hint, name) for name, hint in plain.items()}
    types |= {name: types[name] | tuple[types[name], ...] for name in lists} | sections
    missing = UnsetType | None if nullable else UnsetType
    return msgspec.defstruct(config.__name__, [(name, type_ | missing, UNSET) for name, type_ in types.items()])


def _bounded(hint: Any, name: str) -> Any:
    """The type of a setting with the range of its numbers. No number is NaN or infinite."""
    least = 0 if name.endswith("_id") else _LEAST.get(name)
    if hint is int:
        return Annotated[int, Meta(ge=1 if least is None else least)]
    if hint is float:
        return Annotated[float, Meta(le=_LARGEST, **({"gt": 0} if least is None else {"ge": least}))]
    if not (args := get_args(hint)):
        return hint
    bounded = tuple(_bounded(arg, name) for arg in args)
    if get_origin(hint) is not tuple:
        return reduce(or_, bounded)
    # Of any length: a network has at least one level.
    any_length = args[-1] is ... and least is None
    return Annotated[tuple[bounded], Meta(min_length=1)] if any_length else tuple[bounded]
