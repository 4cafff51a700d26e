"""What a cache of precomputed examples follows from, which decides whether a training may use it.

The plan stands in the description file of the cache. A training makes the plan that its own recipe needs and refuses
the cache if the two differ, so no stale cache is used.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from rewardedit_jax.bases.base import Base, Start
from rewardedit_jax.data.encoded import StoredEdits
from rewardedit_jax.data.records import EditRecord, Source
from rewardedit_jax.editing.cache_layout import CacheLayout
from rewardedit_jax.params import Params, find_rule, fingerprint

# What whoever makes a cache chooses. A training takes any.
CHOICES = ("dtype", "batch_size")
# Fields of a Linen module that do not decide what it computes, or (types) that the plan has under another name.
_NOT_SETTINGS = ("parent", "name", "dtype", "param_dtype", "remat")
_REMEDY = "Make one for this recipe with launch/cache.py, or train without: --config.data.cache=''."


def is_precomputing(base: Base, path: str) -> bool:
    """Whether the parameter of this path belongs to a component that only `Base.precompute` uses."""
    return path.split("/")[0] in base.precomputing


def precomputing_params(start: Start, seed: int) -> Params:
    """The parameters that a cache follows from, as a training with this seed has them."""
    return start.init(jax.random.key(seed), lambda path: is_precomputing(start.base, path))


def check_trainable(start: Start, trainable: Sequence[tuple[str, bool]]) -> None:
    """Raises ValueError if a recipe trains a component whose results a cache holds."""
    for path in filter(lambda path: is_precomputing(start.base, path), flatten_dict(start.abstract_params(), sep="/")):
        rule = find_rule(trainable, path)
        if rule and rule[1]:
            raise ValueError(
                f"trainable has {rule!r}, which trains the {path.split('/')[0]}, but a cache holds its results: set "
                "the rule to False, or train without a cache, --config.data.cache=''."
            )


def make_plan(config: ConfigDict, start: Start, params: Params, layout: CacheLayout, source: Source) -> dict[str, Any]:
    """What the cache of a recipe follows from: JSON values by the names that errors give them.

    Args:
      params: as `precomputing_params` gives them.
      layout: of the recipe's examples.
    """
    base, data = start.base, config.data
    settings = {name: _settings(start.parts[name].module) for name in base.precomputing}
    return {
        "base_editor": base.name,
        **{f"weights of the {name}": fingerprint(params[name], settings[name]) for name in base.precomputing},
        **{f"{name} of the texts": value for name, value in base.reading().items()},
        "compute.dtype": config.compute.dtype,
        "data.resolution": data.resolution,
        "data.flip": data.flip,
        "number of records": len(source),
        "keys of the records": _digest("\n".join(source.keys())) if isinstance(source, StoredEdits) else None,
        **{f"content of data.{name}": _content(data.get(name)) for name in ("root", "rewards", "labels")},
        # The types of the program; those in the records are a choice.
        **{f"array {array.name}": f"{array.dtype.name}{list(array.shape)}" for array in layout.arrays},
    }


def check_plan(folder: Path, stored: Mapping[str, Any], needed: Mapping[str, Any]) -> None:
    """Raises ValueError if the cache in a folder follows from something else than a training needs; names it."""
    names = [name for name in {**needed, **stored} if name not in CHOICES and stored.get(name) != needed.get(name)]
    if names:
        values = (f"{name} ({_shown(stored.get(name))} there, {_shown(needed.get(name))} here)" for name in names)
        raise ValueError(f"the cache {folder} is of another recipe. These differ: {'; '.join(values)}. {_REMEDY}")


def read_edit(source: Source, number: int) -> tuple[EditRecord, str]:
    """A record and its digest, of all that it holds. Raises as the source does."""
    if isinstance(source, StoredEdits):
        edit = source.encoded(number)
        # Of the files, not of the pixels: another version of a decoder may round differently.
        record, images = edit.decoded(), (edit.source, edit.edited)
    else:
        record = source[number]
        images = record.source.tobytes(), record.edited.tobytes()
    scores = None if record.scores is None else record.scores.tolist()
    return record, _digest(repr((record.key, record.instruction, scores, record.feedback)), *images)


def check_edit(folder: Path, source: Source, number: int, digest: str) -> None:
    """Raises ValueError if a record of the data is not the one that was cached."""
    record, found = read_edit(source, number)
    if found != digest:
        raise ValueError(
            f"record {number} of the data ({record.key}) is not the one that the cache {folder} holds: its images, "
            f"texts or scores have changed. {_REMEDY}"
        )


def _settings(module: nn.Module) -> str:
    """What a network computes with its weights, as a text."""
    names = [field.name for field in fields(module) if field.name not in _NOT_SETTINGS]
    return repr([(name, getattr(module, name)) for name in names])


def _content(path: str | None) -> str | None:
    """The digest of a list file or of the index of a prepared data set; None for other data."""
    path = Path(path or "")
    is_list = path.is_file() and path.suffix in (".json", ".jsonl")
    files = [path] if is_list else sorted(path.glob("*.index-*")) if path.name else []
    return _digest(*(file.read_bytes() for file in files)) if files else None


def _digest(*parts: str | bytes) -> str:
    """16 hexadecimal digits of some texts or bytes."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        # With its length, so that no two lists of parts are the same bytes.
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
