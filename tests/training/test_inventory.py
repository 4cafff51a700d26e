"""Tests `training/inventory.py`: names, digests, and what is not finite. Other tests restore on other meshes."""

import copy

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rewardedit_jax.training.inventory import read_record, take_inventory, write_record
from rewardedit_jax.training.step import create_state


@pytest.fixture
def state():
    params = {"w": jnp.array([[1.0, 2.0], [-0.0, 4.0]]), "v": jnp.array(3.0, jnp.bfloat16)}
    return create_state(params, optax.adam(1.0), ema=True)


def test_arrays_that_are_not_finite_are_named(state):
    assert take_inventory(state)[1] == []
    state.ema["w"] = state.ema["w"].at[1, 0].set(jnp.inf)
    state.opt_state[0].mu["v"] = jnp.array(jnp.nan, jnp.bfloat16)
    assert take_inventory(state)[1] == ["opt_state/0/mu/v", "ema/w"]


def test_the_digest_is_the_documented_sum(state):
    entry = take_inventory(state)[0]["params/w"]
    bits = np.array(state.params["w"]).view(np.uint32).ravel()
    assert entry.digest == sum(int(b) * (2 * i + 1) for i, b in enumerate(bits)) % 2**32
    assert (entry.shape, entry.dtype) == ((2, 2), "float32")


@pytest.mark.parametrize(
    "changed", [[[1.0, 2.0], [0.0, 4.0]], [[2.0, 1.0], [-0.0, 4.0]], [[1.0, 2.0000002], [-0.0, 4.0]]]
)
def test_a_flipped_bit_or_an_exchange_changes_the_digest(state, changed):
    (before,), (after,) = (take_inventory([x])[0].values() for x in (state.params["w"], jnp.array(changed)))
    assert before.digest != after.digest


def test_a_record_that_changed_is_refused(state):
    inventory, _ = take_inventory(state)
    record = write_record(inventory)
    assert read_record(record) == inventory
    for change in ({"digest": 0}, {"shape": [4]}, {"dtype": "int32"}):
        other = copy.deepcopy(record)
        other["arrays"]["params/w"] |= change
        with pytest.raises(ValueError, match="checksum"):
            read_record(other)
    with pytest.raises(ValueError, match="unknown field"):
        read_record(record | {"more": 1})
