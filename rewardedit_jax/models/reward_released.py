"""The reward modules of the published weights of "Multi-Reward as Condition" (arXiv:2411.04713).

They differ from the paper's equations (`reward_paper`). MLPs and linear layers embed the scores and the pooled feedback
text. Addition (eq. 3) is realised through the time embedding: the sum of both embeddings is added to it, and every
residual block of the U-Net adds its own projection of that. Attention (eq. 2) is a BERT cross-attention layer on the
first feature map, with two tokens as keys and values: scores and text. There is no type embedding.

Modules are named as in the published checkpoint. Axes: as in `reward_condition`; n pixels of a feature map, k tokens.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rewardedit_jax.models.attention import attention
from rewardedit_jax.models.layers import Dense, EmbeddingMLP, GroupNorm, LayerNorm, TypedModule, torch_default
from rewardedit_jax.models.reward_condition import (
    EncodedReward,
    FeatureMap,
    RewardConditionConfig,
    RewardModules,
    TimeEmbedding,
    per_sample,
)


class ReleasedReward(TypedModule, RewardModules):
    """The reward modules of one U-Net. Both paths encode the reward by modules of their own."""

    config: RewardConditionConfig
    time_width: int
    groups: int  # of the group normalisation

    def setup(self):
        # Attribute names are parameter names, which `weights.stable_diffusion` and checkpoints of users rely on.
        if "addition" in self.config.paths:
            self.reward_addition = ReleasedAddition(self.time_width, **self.types)
        if "attention" in self.config.paths:
            self.reward_attention = ReleasedAttention(self.config, self.groups, **self.types)

    def embed(self, temb: TimeEmbedding, reward: EncodedReward) -> TimeEmbedding:
        return temb + self.reward_addition(reward) if "addition" in self.config.paths else temb

    def encode(self, x: FeatureMap, reward: EncodedReward, deterministic: bool) -> FeatureMap:
        return self.reward_attention(x, reward, deterministic) if "attention" in self.config.paths else x


class ReleasedAddition(TypedModule):
    """The embedding of scores and pooled text that is added to the time embedding."""

    time_width: int

    @nn.compact
    def __call__(self, reward: EncodedReward) -> Float[Array, "b {self.time_width}"]:
        parts = []
        if reward.scores is not None:
            parts.append(EmbeddingMLP(self.time_width, **self.types, name="add_embedding")(reward.scores))
        if reward.text is not None:
            linear = Dense(self.time_width, kernel_init=torch_default, **self.types, name="text_linear2")
            parts.append(linear(reward.text))
        return sum(parts) * per_sample(reward.keep, parts[0])


class ReleasedAttention(TypedModule):
    """The reward encoder: a residual cross-attention to the reward tokens, between 1×1 convolutions."""

    config: RewardConditionConfig
    groups: int

    @nn.compact
    def __call__(self, x: FeatureMap, reward: EncodedReward, deterministic: bool) -> FeatureMap:
        b, h, w, c = x.shape
        dense = partial(Dense, c, kernel_init=torch_default, **self.types)  # on pixels, a 1×1 convolution
        # Keys and values: at most two tokens, scores and text, in this order.
        tokens = []
        if reward.scores is not None:
            tokens.append(EmbeddingMLP(c, **self.types, name="add_embedding2")(reward.scores))
        if reward.text is not None:
            tokens.append(dense(name="text_linear")(reward.text))
        y = GroupNorm(self.groups, epsilon=1e-6, **self.types, name="proj_deal_norm")(x)
        y = dense(name="proj_deal_proj_in")(y.reshape(b, h * w, c))
        bert = BertCrossAttention(self.config.heads, self.config.dropout, **self.types, name="ca")
        y = dense(name="proj_deal_proj_out")(bert(y, jnp.stack(tokens, axis=1), deterministic))
        return x + y.reshape(x.shape) * per_sample(reward.keep, y.reshape(x.shape))


class BertCrossAttention(TypedModule):
    """One post-norm BERT layer: LN(x + attention), LN(h + feed-forward), exact GELU, dropout in training."""

    heads: int
    dropout: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], tokens: Float[Array, "b k c"], deterministic: bool
    ) -> Float[Array, "b n c"]:
        dense = partial(Dense, x.shape[-1], kernel_init=torch_default, **self.types)
        norm = partial(LayerNorm, 1e-12, **self.types)  # BERT's epsilon
        drop = nn.Dropout(self.dropout, deterministic=deterministic)
        h = self._attend(
            dense(name="attention_self_query")(x),
            dense(name="attention_self_key")(tokens),
            dense(name="attention_self_value")(tokens),
            None if deterministic else drop,
        )
        h = norm(name="attention_output_LayerNorm")(x + drop(dense(name="attention_output_dense")(h)))
        y = jax.nn.gelu(dense(name="hidden_intermediate_dense")(h), approximate=False)
        return norm(name="output_LayerNorm")(h + drop(dense(name="output_dense")(y)))

    def _attend(self, query: Array, key: Array, value: Array, drop: nn.Module | None) -> Array:
        query, key, value = (y.reshape(*y.shape[:2], self.heads, -1) for y in (query, key, value))
        if drop is None:
            return attention(query, key, value).reshape(*query.shape[:2], -1)
        # In training BERT drops attention probabilities, which `attention` cannot. There are at most two keys, so that
        # the whole score matrix is small.
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
        weights = drop(jax.nn.softmax(scores * query.shape[-1] ** -0.5, axis=-1)).astype(self.dtype)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(*query.shape[:2], -1)
