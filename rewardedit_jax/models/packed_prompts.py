"""Several prompts that begin alike, as one row: `[what they share | rest of prompt 1 | rest of prompt 2 | ...]`.

A causal model runs over the row once and gives each prompt the numbers of a pass of its own: the rests see what is
shared and themselves, not each other, and their positions all go on from what is shared. Axes: b rows, l tokens,
k prompts of a row, n images of at most f features.
"""

from typing import Any

import flax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


@flax.struct.dataclass
class PackedPrompts:
    """Rows of packed prompts. Leaves are `Any`: under `jax.eval_shape` they are shapes."""

    ids: Any  # int32[b l], token ids
    positions: Any  # int32[b l], the number of the token in its own prompt, from 0
    segments: Any  # int32[b l]: 0 what all prompts share, n ≥ 1 the rest of the n-th prompt, -1 padding
    image_slots: Any  # int32[b l], image · f + feature at image tokens, -1 at text; images lie in what is shared
    reward_index: Any  # int32[b k], where in the row the reward token of each prompt lies


def visible(segments: Int[Array, "b l"]) -> Bool[Array, "b 1 l l"]:
    """Which token (third axis) sees which (last axis): earlier ones that are shared or of its own prompt, and itself.

    Padding is seen by padding only, so that no token sees nothing: the softmax of that is not a number.
    """
    query, key = segments[:, :, None], segments[:, None, :]
    at = jnp.arange(segments.shape[1])
    allowed = (key == query) | ((key == 0) & (query > 0))
    return (allowed & (at[:, None] >= at))[:, None]


def multimodal_positions(
    prompts: PackedPrompts, rows: Int[Array, "n f"], columns: Int[Array, "n f"]
) -> Int[Array, "3 b l"]:
    """Positions (frame, row, column) as Qwen2.5-VL's own authors count them ("Qwen2-VL", 2024, section 2.1).

    Text counts on all three axes alike. The tokens of an image share a frame and count its rows and columns; what
    follows it goes on after the longer of its sides.

    Args:
      rows, columns: where each feature lies in its image, counted in features; 0 at padding.
    """
    width = rows.shape[1]
    is_image = prompts.image_slots >= 0
    image, feature = (jnp.where(is_image, x, 0) for x in jnp.divmod(prompts.image_slots, width))
    span = jnp.maximum(rows, columns).max(axis=1)[image] + 1
    begins = is_image & (feature == 0)
    # Every image before counts as its longer side instead of as its tokens.
    before = jnp.cumsum(jnp.where(begins, span, 0), axis=1) - jnp.cumsum(is_image, axis=1)
    text = prompts.positions + before
    start = text - span + 1  # of a token's own image: its span and the tokens up to here are in `before` already
    axes = [jnp.zeros_like(feature), rows[image, feature], columns[image, feature]]
    return jnp.stack([jnp.where(is_image, start + at, text) for at in axes])
