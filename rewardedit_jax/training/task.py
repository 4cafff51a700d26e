"""What one trainer trains: the protocol of a task, and rules that are addressed by parameter path.

A path is the keys of the nested parameter dict joined by "/", such as "unet/conv_in/kernel". A rule is a pair
(regex, value); the first rule whose regex matches the whole path decides; a parameter that no rule covers is
an error.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Key

Params = dict[str, Any]
Batch = Any
Metrics = dict[str, Array]
Value = TypeVar("Value")
Rules = Sequence[tuple[str, Value]]


@runtime_checkable
class Task(Protocol):
    """A model, its objective and its data, as the trainer sees them.

    Networks that stay frozen lie in the same parameter tree as those that train. So one table says what
    trains, one says where everything lies, a network can train in part, and objective, evaluators and export
    all read one tree. The trainer splits the tree by `trainable`, differentiates the trained part only, and
    hands the frozen part to the compiled step as an argument: closed over, it would be written into the
    program as constants.
    """

    trainable: tuple[tuple[str, bool], ...]  # path regex → does it train?
    partition_rules: tuple[tuple[str, PartitionSpec], ...]  # path regex → mesh axes

    def init(self, rng: Key[Array, ""]) -> Params:
        """The complete tree of all networks, on the host or a device. It belongs to the trainer, who uses it up."""
        ...

    def loss(self, params: Params, batch: Batch, rng: Key[Array, ""]) -> tuple[Float[Array, " b"], Mapping[str, Array]]:
        """Loss per example, and metrics: scalars, or one number per example. Pure: it is traced."""
        ...

    def batches(self, start: int) -> Iterator[Batch]:
        """This host's part of the batches of the optimizer steps start, start + 1, ..., without end.

        A batch is a pytree of arrays whose leading axis is batch_size · accumulate / hosts. What step n sees
        depends on n alone, never on `start`: that makes a resumed run equal to one that never stopped.
        """
        ...

    def export(self, params: Params, directory: Path) -> None:
        """Writes the complete tree as the model directory that users load."""
        ...


def find_rule(rules: Rules, path: str) -> tuple[str, Value] | None:
    """The first rule whose regex matches the whole path, or None."""
    return next((rule for rule in rules if re.fullmatch(rule[0], path)), None)


def split_params(params: Params, trainable: Rules) -> tuple[Params, Params]:
    """(trained, frozen): the two parts of a nested dict, each a nested dict with what the other has left out.

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
    """The complete tree again: the inverse of `split_params`."""
    return unflatten_dict({**flatten_dict(trained), **flatten_dict(frozen)})


def path_of(key_path: tuple[Any, ...]) -> str:
    """The parameter path in the key path of a leaf: its dictionary keys.

    In a training state only parameters lie in dicts, so that a parameter, its moments and its average share
    one path, and a counter has the empty path.
    """
    return "/".join(str(key.key) for key in key_path if isinstance(key, jax.tree_util.DictKey))
