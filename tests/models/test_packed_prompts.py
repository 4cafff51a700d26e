"""Who sees whom in a row of packed prompts."""

import jax.numpy as jnp
import numpy as np

from rewardedit_jax.models.packed_prompts import visible


def test_each_prompt_sees_what_is_shared_and_itself():
    seen = visible(jnp.asarray([[0, 0, 1, 1, 2, -1]]))[0, 0].astype(int)
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    np.testing.assert_array_equal(seen, expected)


def test_a_single_prompt_is_causal():
    np.testing.assert_array_equal(visible(jnp.zeros((2, 5), jnp.int32))[1, 0], np.tril(np.ones((5, 5), bool)))
