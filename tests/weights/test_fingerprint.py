"""The short name of parameters: the same for the same, another for whatever differs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rewardedit_jax.params import fingerprint

TREE = {"a": {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4)}, "b": np.ones(3, np.float32)}


def test_it_is_the_same_wherever_the_numbers_lie():
    name = fingerprint(TREE)
    assert len(name) == 12
    assert int(name, 16) >= 0
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    spread = jax.device_put(TREE, NamedSharding(mesh, PartitionSpec()))
    assert fingerprint(spread) == fingerprint({"b": TREE["b"], "a": TREE["a"]}) == name


@pytest.mark.parametrize(
    "other",
    [
        {**TREE, "b": np.float32([1, 1, 1.0000001])},
        {**TREE, "b": jnp.ones(3, jnp.bfloat16)},
        {**TREE, "b": np.ones((3, 1), np.float32)},
        {"a": TREE["a"], "c": TREE["b"]},
        {"a": {"kernel": np.zeros((3, 4), np.float32)}, "b": TREE["b"]},
    ],
)
def test_whatever_differs_changes_it(other):
    assert fingerprint(other) != fingerprint(TREE)


def test_what_is_beside_counts():
    assert len({fingerprint(TREE), fingerprint(TREE, "x"), fingerprint(TREE, b"y"), fingerprint(TREE, "x", "y")}) == 4
