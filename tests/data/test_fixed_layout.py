"""Records of a fixed layout: what is stored comes back, in the types that are stored."""

import jax.numpy as jnp
import numpy as np
import pytest

from rewardedit_jax.data.fixed_layout import Layout


def tree(seed):
    rng = np.random.default_rng(seed)
    return {
        "states": rng.standard_normal((5, 7), np.float32),
        "half": rng.standard_normal(32).astype(jnp.bfloat16),
        "scores": np.float32([0, 4.1, 5]),
        "keep": np.float32(1),
        "ids": rng.integers(0, 9, 17).astype(np.int32),
        "absent": None,
    }


def stored(layout, *trees):
    columns = layout.columns(len(trees))
    for i, one in enumerate(trees):
        layout.fill(columns, i, np.frombuffer(layout.pack(one), np.uint8))
    return layout.tree(columns)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_records_come_back_as_a_batch(dtype):
    layout = Layout.of(tree(0), dtype)
    batch = stored(layout, tree(1), tree(2), tree(3))
    for i, one in enumerate((tree(1), tree(2), tree(3))):
        np.testing.assert_allclose(batch["states"][i], one["states"], rtol=0 if dtype == "float32" else 2**-8)
        for exact in ("half", "scores", "keep", "ids"):
            np.testing.assert_array_equal(batch[exact][i], one[exact])
    assert batch["absent"] is None
    assert batch["states"].dtype == jnp.dtype(dtype)
    assert len(layout.pack(tree(1))) == layout.nbytes == 35 * batch["states"].itemsize + 64 + 12 + 4 + 68


def test_the_types_of_the_program_come_back():
    layout = Layout.of(tree(0), "bfloat16")
    restored = layout.restore(stored(layout, tree(1)))
    assert {name: leaf.dtype for name, leaf in restored.items() if leaf is not None} == {
        name: leaf.dtype for name, leaf in tree(1).items() if leaf is not None
    }


def test_bytes_behind_a_record_are_ignored():
    layout = Layout.of(tree(0), "float32")
    record = layout.unpack(layout.pack(tree(1)) + b"more")
    np.testing.assert_array_equal(record["ids"], tree(1)["ids"])
    np.testing.assert_array_equal(record["scores"], tree(1)["scores"])


def test_few_numbers_keep_their_type():
    arrays = {array.name: array for array in Layout.of(tree(0), "bfloat16").arrays}
    assert (arrays["states"].stored, arrays["states"].shape) == (jnp.bfloat16, (5, 7))
    assert arrays["scores"].stored == np.float32
