"""Rotary position embedding: pairs of a head's numbers are turned by an angle that grows with the position.

Su et al., "RoFormer" (2021), in the half-split form of Hugging Face's models: number i of the first half pairs with
number i of the second. Axes: b batch, l tokens, h heads, d head width.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def rotary_angles(positions: Int[Array, "*b l"], pairs: int, theta: float) -> Float[Array, "*b l {pairs}"]:
    """position · theta^(-i / pairs), radians, for pair i = 0 .. pairs - 1; in float32."""
    return positions[..., None].astype(jnp.float32) * theta ** -(jnp.arange(pairs, dtype=jnp.float32) / pairs)


def select_axes(angles: Float[Array, "3 b l pairs"], sections: Sequence[int]) -> Float[Array, "b l pairs"]:
    """Multimodal RoPE: the first section of the pairs turns with the first axis of the position, and so on.

    Axes are (frame, row, column); `sections` are the numbers of pairs of each ("Qwen2-VL", 2024, section 2.1).
    """
    axis = np.repeat(np.arange(3), sections)
    return jnp.take_along_axis(angles, axis[None, None, None], axis=0)[0]


def rotate(x: Float[Array, "b l h d"], angles: Float[Array, "b l half"]) -> Float[Array, "b l h d"]:
    """Turns each pair by its angle (radians; half = d / 2), in float32 whatever the type of `x`."""
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
