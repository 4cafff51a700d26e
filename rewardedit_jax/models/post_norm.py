"""The transformer layer of BERT (Devlin et al., 2018), whose norms follow the residual sums: its two parts.

A network composes a layer of them: the reward encoder of one cross-attention and a feed-forward part, a Q-Former of
self-attention, cross-attention and a feed-forward part. Axes: b batch, q queries, k keys, c width of the layer.
"""

from dataclasses import field
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import Initializer, normal
from jaxtyping import Array, Bool, Float

from rewardedit_jax.models.attention import attention
from rewardedit_jax.models.layers import Dense, LayerNorm, TypedModule

States = Float[Array, "b q c"]
Keys = Float[Array, "b k d"]  # or values, of any width
Mask = Bool[Array, "b #1 #q k"] | None  # True where a query attends to a key; None: everywhere


class PostNormLayer(TypedModule):
    """What a subclass's `__call__` composes; submodules have the names of published files, with "_" for "."."""

    heads: int
    epsilon: float = field(default=1e-12, kw_only=True)  # BERT's
    kernel_init: Initializer = field(default=normal(0.02), kw_only=True)

    def attend(
        self, x: States, states: Keys, mask: Mask, name: str, drop: nn.Dropout, drop_weights: nn.Dropout
    ) -> States:
        """LN(x + dropout(dense(attention from `x` to `states`))). `drop_weights` drops attention probabilities."""
        dense = partial(Dense, x.shape[-1], kernel_init=self.kernel_init, **self.types)
        query, key, value = (
            dense(name=f"{name}_self_{part}")(y).reshape(*y.shape[:2], self.heads, -1)
            for part, y in (("query", x), ("key", states), ("value", states))
        )
        if drop_weights.deterministic:
            attended = attention(query, key, value, mask)
        else:
            attended = dropped_attention(query, key, value, mask, drop_weights)
        y = dense(name=f"{name}_output_dense")(attended.reshape(x.shape))
        return LayerNorm(self.epsilon, **self.types, name=f"{name}_output_LayerNorm")(x + drop(y))

    def feed_forward(self, x: States, width: int, inner: str, outer: str, drop: nn.Dropout) -> States:
        """LN(x + dropout(dense(GELU(dense(x))))), with the exact GELU. `width`: of the inner layer."""
        dense = partial(Dense, kernel_init=self.kernel_init, **self.types)
        y = jax.nn.gelu(dense(width, name=f"{inner}_dense")(x), approximate=False)
        y = dense(x.shape[-1], name=f"{outer}_dense")(y)
        return LayerNorm(self.epsilon, **self.types, name=f"{outer}_LayerNorm")(x + drop(y))


def dropped_attention(
    query: Float[Array, "b q h d"],
    key: Float[Array, "b k h d"],
    value: Float[Array, "b k h d"],
    mask: Mask,
    drop: nn.Dropout,
) -> Float[Array, "b q h d"]:
    """Attention whose probabilities are dropped, as BERT's are in training; the kernels of `attention` cannot."""
    # The whole score matrix is in memory: for few keys only.
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = drop(jax.nn.softmax(scores, axis=-1)).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)
