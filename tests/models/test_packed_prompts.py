"""Attention mask and positions of packed prompts."""

import jax.numpy as jnp
import numpy as np

from rewardedit_jax.models.decoder import causal_mask
from rewardedit_jax.models.qwen2_5_vl import multimodal_positions


def test_each_prompt_sees_what_is_shared_and_itself():
    seen = causal_mask(jnp.asarray([[0, 0, 1, 1, 2, -1]]))[0, 0].astype(int)
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
    np.testing.assert_array_equal(causal_mask(jnp.zeros((2, 5), jnp.int32))[1, 0], np.tril(np.ones((5, 5), bool)))


def test_positions_on_three_axes_by_hand():
    """Text, an image of 2 rows and 3 columns, text, an image of 2 rows and 1 column, text; then a second prompt."""
    slots = [-1, 0, 1, 2, 3, 4, 5, -1, 6, 7, -1, -1, -1]
    plain = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 10]
    rows = jnp.asarray([[0, 0, 0, 1, 1, 1], [0, 1, 0, 0, 0, 0]])
    columns = jnp.asarray([[0, 1, 2, 0, 1, 2], [0, 0, 0, 0, 0, 0]])
    frame, row, column = multimodal_positions(jnp.asarray([plain]), jnp.asarray([slots]), rows, columns)[:, 0].tolist()
    # The first image begins at 1 and is 3 long, the text after it stands at 4; the second begins at 5 and is 2 long.
    assert frame == [0, 1, 1, 1, 1, 1, 1, 4, 5, 5, 7, 8, 7]
    assert row == [0, 1, 1, 1, 2, 2, 2, 4, 5, 6, 7, 8, 7]
    assert column == [0, 1, 2, 3, 1, 2, 3, 4, 5, 5, 7, 8, 7]
