"""Parameter trees: paths and rules that address them, splitting, drawing what is missing, fingerprints.

A parameter tree is a nested dict of arrays. The path of a parameter is its keys joined by "/", such as
"unet/conv_in/kernel". A rule is a pair (regex, value); the first rule whose regex matches the whole path decides. What
trains, how parameters are sharded, and what is frozen are all lists of such rules.
"""

import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike
from jaxtyping import Array, PRNGKeyArray, UInt32

Params = dict[str, Any]
Value = TypeVar("Value")
Rules = Sequence[tuple[str, Value]]


def find_rule(rules: Rules, path: str) -> tuple[str, Value] | None:
    """The first rule whose regex matches the whole path, or None."""
    return next((rule for rule in rules if re.fullmatch(rule[0], path)), None)


def path_of(key_path: tuple[Any, ...]) -> str:
    """The parameter path in a leaf's key path (`jax.tree_util`): its dictionary keys joined by "/".

    In a training state only parameters lie in dicts. A parameter, its optimizer moments and its moving average
    therefore share one path, and one rule covers all of them; a step counter has the empty path.
    """
    return "/".join(str(key.key) for key in key_path if isinstance(key, jax.tree_util.DictKey))


def split_params(params: Params, trainable: Rules) -> tuple[Params, Params]:
    """Split a tree into (trained, frozen) by rules (path regex, bool); each part is a nested dict.

    Raises:
      ValueError: naming every parameter that no rule covers; or if nothing trains.
    """
    flat = flatten_dict(params, sep="/")
    rules = {path: find_rule(trainable, path) for path in flat}
    if uncovered := [path for path, rule in rules.items() if rule is None]:
        raise ValueError("no rule of `trainable` covers these parameters:\n  " + "\n  ".join(uncovered))
    trained = {path: leaf for path, leaf in flat.items() if rules[path][1]}
    if not trained:
        raise ValueError("nothing would train: `trainable` says False for every parameter")
    frozen = {path: leaf for path, leaf in flat.items() if path not in trained}
    return unflatten_dict(trained, sep="/"), unflatten_dict(frozen, sep="/")


def merge_params(trained: Params, frozen: Params) -> Params:
    """The complete tree: the inverse of `split_params`."""
    return unflatten_dict({**flatten_dict(trained), **flatten_dict(frozen)})


@functools.cache  # traces the whole network, and a run asks about each network several times
def abstract_params(module: nn.Module) -> Params:
    """Shapes and dtypes (`jax.ShapeDtypeStruct`) of a network's parameters, without computing them.

    Args:
      module: has a method `example_inputs()`, the smallest inputs that reach every parameter.

    Returns:
      One tree for all calls with equal modules: do not change it.
    """
    return jax.eval_shape(lambda: module.init(jax.random.key(0), *module.example_inputs()))["params"]


def with_types(abstract: Params, types: Mapping[str, DTypeLike]) -> Params:
    """The shapes of a tree with other dtypes at some paths."""
    flat = flatten_dict(abstract, sep="/")
    return unflatten_dict({path: x.update(dtype=types.get(path, x.dtype)) for path, x in flat.items()}, sep="/")


def random_params(
    module: nn.Module, rng: PRNGKeyArray, known: Params | None = None, wanted: Callable[[str], bool] | None = None
) -> Params:
    """Parameters of a network: those in `known` unchanged, the others drawn from its initialisers.

    Args:
      wanted: whether the parameter of a path is drawn if it is missing; None: all are.
    """
    kept = flatten_dict(known or {})
    paths = flatten_dict(abstract_params(module))
    missing = [path for path in paths if path not in kept and (wanted is None or wanted("/".join(path)))]

    # XLA drops the initialisers whose results are not returned: only what is missing is computed.
    def draw() -> dict[tuple[str, ...], jax.Array]:
        drawn = flatten_dict(module.init(rng, *module.example_inputs())["params"])
        return {path: drawn[path] for path in missing}

    # Compilation dominates the cost of drawing. Without optimisations it takes half the time.
    quickly = jax.jit(draw, compiler_options={"xla_backend_optimization_level": 0})
    return unflatten_dict({**kept, **(quickly() if missing else {})})


def fingerprint(params: Params, *extra: str | bytes) -> str:
    """12 hexadecimal digits that identify a tree of parameters; not cryptographic.

    Hashes names, shapes, dtypes and, for each tensor, the sum of its bit patterns as unsigned integers. Integer sums
    do not depend on the device or on how a tensor is sharded, and only the sums are copied to the host.

    Args:
      extra: further values that the fingerprint depends on, such as settings.
    """
    sums = jax.device_get(_bit_sums(params))
    lines = [f"{name} {x.shape} {x.dtype} {sums[name]}" for name, x in sorted(flatten_dict(params, sep="/").items())]
    digest = hashlib.blake2b(digest_size=6)
    for part in (*lines, *extra):
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()


@jax.jit
def _bit_sums(params: Params) -> dict[str, UInt32[Array, ""]]:
    def bits(x: Array) -> Array:
        return jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))

    return {name: bits(x).sum(dtype=jnp.uint32) for name, x in flatten_dict(params, sep="/").items()}
