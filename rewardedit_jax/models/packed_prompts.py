"""Several prompts that begin alike, as one row: `[what they share | rest of prompt 1 | rest of prompt 2 | ...]`.

A causal model runs over the row once and gives each prompt the numbers of a pass of its own: the rests see what is
shared and themselves, not each other, and their positions all go on from what is shared. Axes: b rows, l tokens,
k prompts of a row.
"""

from typing import Any

import flax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


@flax.struct.dataclass
class PackedPrompts:
    """Rows of packed prompts. Leaves are `Any`: under `jax.eval_shape` they are shapes."""

    ids: Any  # int32[b l], token ids
    positions: Any  # int32[b l], or [3 b l] for rotary positions of three axes
    segments: Any  # int32[b l]: 0 what all prompts share, n ≥ 1 the rest of the n-th prompt, -1 padding
    image_slots: Any  # int32[b l], a row of the flattened image features where an image token is, -1 at text
    reward_index: Any  # int32[b k], where in the row the reward token of each prompt lies


def visible(segments: Int[Array, "b l"]) -> Bool[Array, "b 1 l l"]:
    """Which token (third axis) sees which (last axis): earlier ones that are shared or of its own prompt, and itself.

    Padding is seen by padding only, so that no token sees nothing: the softmax of that is not a number.
    """
    query, key = segments[:, :, None], segments[:, None, :]
    at = jnp.arange(segments.shape[1])
    allowed = (key == query) | ((key == 0) & (query > 0))
    return (allowed & (at[:, None] >= at))[:, None]
