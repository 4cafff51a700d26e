"""The arrays of a training state, each with a digest of its bits: a checkpoint that is read is compared with them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
from jaxtyping import Array, Bool, UInt32


class Entry(msgspec.Struct, frozen=True):
    """What is known of one array."""

    shape: tuple[int, ...]
    dtype: str
    digest: int | None  # None: unknown


Inventory = dict[str, Entry]  # by path, with the names that orbax writes: fields, keys and positions, joined by "/"


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    arrays: Inventory
    checksum: str  # of the arrays, as the record is a file whose bits can flip too


def take_inventory(state: Any) -> tuple[Inventory, list[str]]:
    """Every array of a state, and the paths of those that hold NaN or infinity.

    Computed on the devices, one read of each array; the answer does not depend on how the arrays are sharded. On
    several hosts a collective, with the same answer on all.
    """
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}
    found = {}
    for path, leaf in leaves.items():
        found[path] = _examine(leaf)
        if jax.default_backend() == "cpu":
            # Collectives of programs that run at the same time wait for each other for ever on simulated devices,
            # which share the threads of a CPU. Other devices run their programs in order.
            jax.block_until_ready(found[path])
    found = jax.device_get(found)
    inventory = {path: Entry(tuple(x.shape), str(x.dtype), int(found[path][0])) for path, x in leaves.items()}
    return inventory, [path for path in leaves if not found[path][1]]


def write_record(inventory: Inventory) -> dict[str, Any]:
    """The inventory as a JSON object with a checksum."""
    return msgspec.to_builtins(_Record(inventory, _checksum(inventory)))


def read_record(record: Mapping[str, Any]) -> Inventory:
    """The inventory of such an object. Raises ValueError if it has changed since it was written."""
    read = msgspec.convert(record, _Record)
    if _checksum(read.arrays) != read.checksum:
        raise ValueError("the list of its arrays does not have the checksum that was written with it")
    return read.arrays


def path_name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _checksum(inventory: Inventory) -> str:
    text = json.dumps(msgspec.to_builtins(inventory), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@jax.jit  # a small program for each shape: one for the whole state would compile for minutes
def _examine(x: Array) -> tuple[UInt32[Array, ""], Bool[Array, ""]]:
    """(digest, whether all values are finite).

    The digest is Σ bits_i · (2i + 1) modulo 2**32. Integer sums do not depend on their order. The factors are odd, so
    every single flipped bit changes the sum, and differ, so values that change places do; of other damage, one in 2**32
    is missed.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32)
    factors = 2 * jnp.arange(x.size, dtype=jnp.uint32).reshape(x.shape) + 1
    return (bits * factors).sum(dtype=jnp.uint32), jnp.isfinite(x).all()
