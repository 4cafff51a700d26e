"""Torch tensors ⇄ parameter trees: one engine; each network brings a table of rules.

A rule pairs two templates and a named transform:

    Rule("down_blocks.{i}.resnets.{j}.conv1.weight", "down_blocks_{i}/resnets_{j}/conv1/kernel", CONV)

`{i}` stands for a number, `{proj:q|k|v}` for one of the words; listed once, they need not be repeated: `{proj}` will
do. The same rule reads (torch name → path) and writes (path → torch name), so export is the inverse of import by
construction. Both ways are strict: every tensor is taken by exactly one rule or by an `ignore` pattern, every parameter
is filled, shapes agree; all faults come in one error.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from rewardedit_jax.params import Params


class WeightMismatch(ValueError):
    """A checkpoint and a network do not fit; the message lists every fault."""


class Transform(NamedTuple):
    """How one tensor is laid out on either side."""

    to_jax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


def _linear_to_jax(x: np.ndarray) -> np.ndarray:
    """[out, in], or the [out, in, 1, 1] of a 1×1 convolution, → [in, out]."""
    return x.reshape(x.shape[:2]).T if x.shape[2:] in ((), (1, 1)) else x


COPY = Transform(lambda x: x, lambda x: x)
LINEAR = Transform(_linear_to_jax, lambda x: x.T)
POINTWISE = Transform(_linear_to_jax, lambda x: x.T[:, :, None, None])  # a dense layer that torch keeps as 1×1 conv
CONV = Transform(lambda x: x.transpose(2, 3, 1, 0) if x.ndim == 4 else x, lambda x: x.transpose(3, 2, 0, 1))


_PLACEHOLDER = re.compile(r"\{(\w+)(?::([^}]*))?\}")


class _Template:
    """A name with placeholders, which matches names and can be filled in. `words`: what a placeholder may stand for."""

    def __init__(self, text: str, words: Mapping[str, str]):
        pattern, last, seen = "", 0, set()
        for hit in _PLACEHOLDER.finditer(text):
            name = hit[1]
            group = f"(?P={name})" if name in seen else f"(?P<{name}>{words.get(name, '[0-9]+')})"
            pattern += re.escape(text[last : hit.start()]) + group
            last = hit.end()
            seen.add(name)
        self.regex = re.compile(pattern + re.escape(text[last:]))
        self.blank = _PLACEHOLDER.sub(r"{\1}", text)

    def match(self, name: str) -> dict[str, str] | None:
        hit = self.regex.fullmatch(name)
        return hit and hit.groupdict()


@dataclass(frozen=True)
class Rule:
    """One line of a table. `aliases` are further torch names that older files use; they are read, never written."""

    torch: str
    path: str
    transform: Transform
    aliases: tuple[str, ...] = ()

    @cached_property
    def _words(self) -> dict[str, str]:
        """The words of each placeholder, which need be listed in one of the templates only."""
        listed = (hit for text in (self.torch, self.path, *self.aliases) for hit in _PLACEHOLDER.findall(text))
        return {name: words for name, words in listed if words}

    @cached_property
    def _sources(self) -> list[_Template]:
        return [_Template(text, self._words) for text in (self.torch, *self.aliases)]

    @cached_property
    def _path(self) -> _Template:
        return _Template(self.path, self._words)

    def to_path(self, torch_name: str) -> str | None:
        for template in self._sources:
            if (groups := template.match(torch_name)) is not None:
                return self._path.blank.format(**groups)
        return None

    def to_torch(self, path: str) -> str | None:
        groups = self._path.match(path)
        return None if groups is None else self._sources[0].blank.format(**groups)


def linear(torch: str, path: str, aliases: tuple[str, ...] = (), transform: Transform = LINEAR) -> tuple[Rule, ...]:
    """Rules of a dense layer: weight → kernel, and its bias if it has one."""
    return (
        Rule(f"{torch}.weight", f"{path}/kernel", transform, tuple(f"{a}.weight" for a in aliases)),
        Rule(f"{torch}.bias", f"{path}/bias", COPY, tuple(f"{a}.bias" for a in aliases)),
    )


def conv(torch: str, path: str, aliases: tuple[str, ...] = ()) -> tuple[Rule, ...]:
    """Rules of a convolution: OIHW weight → HWIO kernel, and its bias."""
    return linear(torch, path, aliases, CONV)


def norm(torch: str, path: str, aliases: tuple[str, ...] = ()) -> tuple[Rule, ...]:
    """Rules of a normalisation: weight → scale, and its bias if it has one."""
    return (
        Rule(f"{torch}.weight", f"{path}/scale", COPY, tuple(f"{a}.weight" for a in aliases)),
        Rule(f"{torch}.bias", f"{path}/bias", COPY, tuple(f"{a}.bias" for a in aliases)),
    )


@dataclass(frozen=True)
class WeightTable:
    """All rules of one network, and regexes of torch names that carry no parameter (buffers)."""

    rules: tuple[Rule, ...]
    ignore: tuple[str, ...] = ()
    _ignored: re.Pattern = field(init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "_ignored", re.compile("|".join(self.ignore) or r"(?!)"))

    def assign(self, torch_names: Iterable[str]) -> Iterator[tuple[str, list[tuple[Rule, str]]]]:
        """Each torch name with the rules that take it and the paths they give; ignored names are left out."""
        for name in torch_names:
            if not self._ignored.fullmatch(name):
                hits = [(rule, rule.to_path(name)) for rule in self.rules]
                yield name, [(rule, path) for rule, path in hits if path is not None]


def import_tensors(
    tensors: Mapping[str, np.ndarray],
    table: WeightTable,
    abstract: Params,
    wanted: Callable[[str], bool] | None = None,
) -> Params:
    """The parameter tree of a torch checkpoint.

    Args:
      tensors: torch name → tensor; may read lazily, each tensor is asked for once.
      abstract: nested dict of `jax.ShapeDtypeStruct`: what the network wants. Values are cast to its dtypes.
      wanted: whether the parameter of a path is read; the tree then holds these alone. None: all.
    Raises:
      WeightMismatch: listing every tensor without a rule or with two, every parameter unfilled or filled twice, and
        every shape that differs.
    """
    shapes = flatten_dict(abstract, sep="/")
    plan: dict[str, tuple[str, Transform]] = {}
    faults = []
    for name, hits in table.assign(tensors):
        if len(hits) != 1:
            faults.append(f"tensor {name}: " + ("no rule takes it" if not hits else "two rules take it"))
        elif hits[0][1] in plan:
            faults.append(f"parameter {hits[0][1]}: filled by both {plan[hits[0][1]][0]} and {name}")
        elif hits[0][1] not in shapes:
            faults.append(f"tensor {name}: the network has no parameter {hits[0][1]}")
        else:
            plan[hits[0][1]] = name, hits[0][0].transform
    faults += [f"parameter {path}: no tensor fills it" for path in shapes if path not in plan]

    filled = {}
    for path, (name, transform) in plan.items():
        if wanted is not None and not wanted(path):
            continue
        value = transform.to_jax(np.asarray(tensors[name]))
        if value.shape != shapes[path].shape:
            faults.append(f"parameter {path}: {name} gives shape {value.shape}, the network wants {shapes[path].shape}")
        if not faults:  # after one, the others are read for their shapes only
            filled[path] = np.asarray(value, shapes[path].dtype, order="C")
    _raise_if(faults)
    return unflatten_dict(filled, sep="/")


def export_tensors(params: Params, table: WeightTable) -> dict[str, np.ndarray]:
    """The torch tensors of a parameter tree: the inverse of `import_tensors`.

    Raises:
      WeightMismatch: listing every parameter that has no rule, or two, or the torch name of another one.
    """
    tensors, faults = {}, []
    for path, value in flatten_dict(params, sep="/").items():
        hits = [(rule, rule.to_torch(path)) for rule in table.rules]
        hits = [(rule, name) for rule, name in hits if name is not None]
        if len(hits) != 1:
            faults.append(f"parameter {path}: " + ("no rule takes it" if not hits else "two rules take it"))
        elif hits[0][1] in tensors:
            faults.append(f"parameter {path}: another one is already written as {hits[0][1]}")
        else:
            rule, name = hits[0]
            tensors[name] = np.asarray(rule.transform.to_torch(np.asarray(jax.device_get(value))), order="C")
    _raise_if(faults)
    return tensors


def _raise_if(faults: list[str], most: int = 40) -> None:
    if faults:
        more = [f"... and {len(faults) - most} more"] if len(faults) > most else []
        raise WeightMismatch(
            "\n  ".join([f"weights and network do not fit ({len(faults)} faults):", *faults[:most], *more])
        )
