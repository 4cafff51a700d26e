"""Torch tensors ⇄ parameter trees: one engine; each network has a table of rules.

A rule pairs two templates and a transform:

    Rule("down_blocks.{i}.resnets.{j}.conv1.weight", "down_blocks_{i}/resnets_{j}/conv1/kernel", CONV)

`{i}` matches a number, `{proj:q|k|v}` one of the words. The words are needed once per rule; elsewhere `{proj}` will do.
The same rule reads (torch name → path) and writes (path → torch name), so that export is the inverse of import by
construction. Both are strict: every tensor is taken by exactly one rule or by an `ignore` pattern, every parameter
is filled, and shapes agree. All faults come in one error.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from rewardedit_jax.params import Params


class WeightMismatch(ValueError):
    """A checkpoint and a network do not fit; the message lists every fault."""


class UnusableTensor(ValueError):
    """The values of a tensor cannot be weights. `tensor`: its name."""

    def __init__(self, tensor: str, reason: str):
        super().__init__(f"tensor {tensor} {reason}")
        self.tensor = tensor


class Transform(NamedTuple):
    """The layout of one tensor in JAX and in torch, as functions from one to the other."""

    to_jax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


def _linear_to_jax(x: np.ndarray) -> np.ndarray:
    """[out, in], or the [out, in, 1, 1] of a 1×1 convolution, → [in, out]."""
    # A tensor with other axes is left as it is, here and in CONV: its shape becomes a fault among the others.
    return x.reshape(x.shape[:2]).T if x.shape[2:] in ((), (1, 1)) else x


COPY = Transform(lambda x: x, lambda x: x)
LINEAR = Transform(_linear_to_jax, lambda x: x.T)
POINTWISE = Transform(_linear_to_jax, lambda x: x.T[:, :, None, None])  # a dense layer that torch keeps as 1×1 conv
CONV = Transform(lambda x: x.transpose(2, 3, 1, 0) if x.ndim == 4 else x, lambda x: x.transpose(3, 2, 0, 1))

_PLACEHOLDER = re.compile(r"\{(\w+)(?::([^}]*))?\}")


def _regex(template: str, words: Mapping[str, str]) -> re.Pattern:
    """The regex of the names that a template matches. `words`: alternatives for a placeholder; by default, numbers."""
    first, *rest = _PLACEHOLDER.split(template)
    pattern = re.escape(first)  # names contain dots, which must match dots only
    for name, text in zip(rest[::3], rest[2::3], strict=True):
        group = f"(?P<{name}>"
        # A repeated placeholder must match the same text again.
        pattern += f"(?P={name})" if group in pattern else f"{group}{words.get(name, '[0-9]+')})"
        pattern += re.escape(text)
    return re.compile(pattern)


@dataclass(frozen=True)
class Rule:
    """One line of a table. `aliases` are further torch names that older files have; they are read, never written."""

    torch: str
    path: str
    transform: Transform
    aliases: tuple[str, ...] = ()

    @cached_property  # compiled once: an import matches every tensor against every rule
    def _templates(self) -> list[tuple[re.Pattern, str]]:
        """(regex, format string) of the path, the torch name and each alias."""
        texts = (self.path, self.torch, *self.aliases)
        words = {name: words for text in texts for name, words in _PLACEHOLDER.findall(text) if words}
        return [(_regex(text, words), _PLACEHOLDER.sub(r"{\1}", text)) for text in texts]

    def to_path(self, torch_name: str) -> str | None:
        """The parameter path of a torch name; None if the rule does not take it."""
        (_, path), *sources = self._templates
        hits = (regex.fullmatch(torch_name) for regex, _ in sources)
        return next((path.format(**hit.groupdict()) for hit in hits if hit), None)

    def to_torch(self, path: str) -> str | None:
        """The torch name of a parameter path; None if the rule does not take it."""
        return next(iter(self.all_torch(path)), None)

    def all_torch(self, path: str) -> list[str]:
        """The torch name of a parameter path, and those of older files; [] if the rule does not take it."""
        (regex, _), *torch = self._templates
        hit = regex.fullmatch(path)
        return [template.format(**hit.groupdict()) for _, template in torch] if hit else []


def linear(
    torch: str, path: str, aliases: tuple[str, ...] = (), transform: Transform = LINEAR, weight: str = "kernel"
) -> tuple[Rule, ...]:
    """Rules of a layer, by default dense: its weight, its bias and its low-rank difference.

    A layer without bias may have all of them. A and B have the names of the package peft and the layout of the weight.
    """
    pairs = (("weight", weight, transform), ("bias", "bias", COPY))
    if transform in (LINEAR, POINTWISE):
        pairs += tuple((f"lora_{x}.default.weight", f"lora_{x.lower()}", transform) for x in "AB")
    return tuple(Rule(f"{torch}.{t}", f"{path}/{p}", how, tuple(f"{a}.{t}" for a in aliases)) for t, p, how in pairs)


conv = partial(linear, transform=CONV)  # OIHW weight → HWIO kernel
norm = partial(linear, transform=COPY, weight="scale")  # Flax calls the weight of a normalisation its scale


def prefixed(rules: Iterable[Rule], prefix: str, alias: str) -> tuple[Rule, ...]:
    """The rules with `prefix` before their torch names; the names with `alias` before them become aliases."""
    return tuple(replace(rule, torch=prefix + rule.torch, aliases=(alias + rule.torch,)) for rule in rules)


class WeightTable(NamedTuple):
    """All rules of one network, and regexes of torch names that have no parameter here, such as buffers."""

    rules: tuple[Rule, ...]
    ignore: tuple[str, ...] = ()

    def torch_names(self, path: str) -> set[str]:
        """The names that a parameter is written under: one, if the table is right."""
        return {name for rule in self.rules if (name := rule.to_torch(path)) is not None}


def _convert(
    kind: str, names: Iterable[str], rules: Iterable[Rule], to: Callable[[Rule, str], str | None], faults: list[str]
) -> Iterator[tuple[str, str, Transform]]:
    """(name, converted name, transform) for each name that exactly one rule takes; other names add a fault."""
    for name in names:
        hits = [(name, new, rule.transform) for rule in rules if (new := to(rule, name)) is not None]
        if len(hits) == 1:
            yield hits[0]
        else:
            # Two rules for one name are an error of the table. The first must not win silently.
            faults.append(f"{kind} {name}: {'two rules take it' if hits else 'no rule takes it'}")


def import_tensors(
    tensors: Mapping,
    table: WeightTable,
    abstract: Params,
    wanted: Callable[[str], bool] | None = None,
    allow_nonfinite: bool = False,
) -> Params:
    """The parameter tree of a torch checkpoint.

    Args:
      tensors: torch name → NumPy array; may read lazily, each tensor is asked for once.
      abstract: the network's parameters as `jax.ShapeDtypeStruct` in a nested dict. Values are cast to its dtypes.
      wanted: whether the parameter of a path is read; the tree then contains only these. None: all.
      allow_nonfinite: whether values may be NaN or infinite.
    Raises:
      UnusableTensor: naming the first tensor of another type than floating-point numbers, or with such values.
      WeightMismatch: listing every tensor without a rule or with two, every parameter unfilled or filled twice, and
        every shape that differs.
    """
    shapes, faults, filled = flatten_dict(abstract, sep="/"), [], {}
    source = match_tensors(tensors, table, shapes, faults)
    for path, (name, transform) in source.items():
        if wanted is not None and not wanted(path):
            continue
        value = np.asarray(tensors[name])
        if not jnp.issubdtype(value.dtype, np.floating):
            reason = "expected floating-point numbers, as quantised weights are not supported"
            raise UnusableTensor(name, f"has type {value.dtype}: {reason}.")
        value = transform.to_jax(value)
        check_shape(path, name, value, shapes[path].shape, faults)
        if not faults:  # after a fault, the other tensors are read for their shapes only, to save memory
            # Contiguous: JAX would copy a transposed view at each transfer to a device.
            filled[path] = np.asarray(value, shapes[path].dtype, order="C")
            if not (allow_nonfinite or _all_finite(filled[path])):  # after the cast, which may overflow
                remedy = "Copy or download the file again, or load it all the same with allow_nonfinite=True."
                raise UnusableTensor(name, f"{_nonfinite(filled[path])}. {remedy}")
    raise_faults(faults)
    return unflatten_dict(filled, sep="/")


def match_tensors(
    names: Iterable[str], table: WeightTable, paths: Collection[str], faults: list[str]
) -> dict[str, tuple[str, Transform]]:
    """Path → (name, transform) of the tensor that fills each parameter; what does not fit adds a fault."""
    source = {}
    # `(?!)` matches nothing: without ignore patterns, no name is ignored.
    ignored = re.compile("|".join(table.ignore) or "(?!)")
    names = (name for name in names if not ignored.fullmatch(name))
    for name, path, transform in _convert("tensor", names, table.rules, Rule.to_path, faults):
        if path in source:
            faults.append(f"parameter {path}: filled by both {source[path][0]} and {name}")
        elif path not in paths:
            faults.append(f"tensor {name}: the network has no parameter {path}")
        else:
            source[path] = name, transform
    unfilled = {path: ", ".join(table.torch_names(path)) for path in paths if path not in source}
    faults += [f"parameter {path}: no tensor fills it, such as {name}" for path, name in unfilled.items()]
    return source


def check_shape(path: str, name: str, value: np.ndarray, wanted: tuple[int, ...], faults: list[str]) -> None:
    """Adds a fault if a tensor has another shape than the parameter that it fills."""
    if value.shape != wanted:
        faults.append(f"parameter {path}: {name} gives shape {value.shape}, the network wants {wanted}")


def export_tensors(params: Params, table: WeightTable) -> dict[str, np.ndarray]:
    """The torch tensors of a parameter tree: the inverse of `import_tensors`.

    Raises:
      UnusableTensor: naming the first tensor with values that are NaN or infinite.
      WeightMismatch: listing every parameter that has no rule, or two, or the torch name of another one.
    """
    flat, tensors, faults = flatten_dict(params, sep="/"), {}, []
    for path, name, transform in _convert("parameter", flat, table.rules, Rule.to_torch, faults):
        if name in tensors:
            faults.append(f"parameter {path}: another one is already written as {name}")
        else:
            # The library safetensors writes the buffer of an array as it is, which must not be that of a view.
            tensors[name] = np.asarray(transform.to_torch(np.asarray(jax.device_get(flat[path]))), order="C")
            if not _all_finite(tensors[name]):
                raise UnusableTensor(name, f"{_nonfinite(tensors[name])}.")
    raise_faults(faults)
    return tensors


def _nonfinite(x: np.ndarray) -> str:
    count = x.size - np.count_nonzero(np.isfinite(x))
    return f"has {count} of {x.size} values that are not finite (NaN or infinity) in {x.dtype}"


def _all_finite(x: np.ndarray) -> bool:
    """Whether no value of an array of floating-point numbers is NaN or infinite."""
    # The bits of infinity and NaN are the largest, as signed numbers where the sign is +, as unsigned ones where it is
    # -. Two maxima take 0.1 s per GiB in any type and no memory; numpy.isfinite takes 1 s for bfloat16.
    size = x.dtype.itemsize
    infinity, sign = np.array(np.inf, x.dtype).view(f"u{size}").item(), 1 << (8 * size - 1)
    return not x.size or bool(x.view(f"i{size}").max() < infinity and x.view(f"u{size}").max() < infinity + sign)


def raise_faults(faults: list[str], most: int = 40) -> None:
    """Raises `WeightMismatch` with the first `most` faults, if there are any."""
    if faults:
        more = [f"... and {len(faults) - most} more"] if len(faults) > most else []
        head = f"weights and network do not fit ({len(faults)} faults):"
        raise WeightMismatch("\n  ".join([head, *faults[:most], *more]))
