"""Rotary position embedding: pairs of a head's numbers are turned by an angle that grows with the position.

Su et al., "RoFormer" (2021), in the half-split form of Hugging Face's models: number i of the first half pairs with
number i of the second. Axes: b batch, l tokens, h heads, d head width.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def rotate(x: Float[Array, "b l h d"], angles: Float[Array, "b l half"]) -> Float[Array, "b l h d"]:
    """Turns each pair by its angle (radians; half = d / 2), in float32 whatever the type of `x`."""
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
