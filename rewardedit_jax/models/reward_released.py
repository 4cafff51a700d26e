"""The reward modules of the published weights of "Multi-Reward as Condition" (arXiv:2411.04713).

They differ from the paper's equations (`reward_paper`). MLPs and linear layers embed the scores and the pooled feedback
text. Addition (eq. 3) is realised through the time embedding: the sum of both embeddings is added to it, and every
residual block of the U-Net adds its own projection of that. Attention (eq. 2) is a BERT cross-attention layer on the
first feature map, with two tokens as keys and values: scores and text. There is no type embedding.

Modules are named as in the published checkpoint. Axes: as in `reward_condition`; n pixels of a feature map, k tokens.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rewardedit_jax.models.layers import Dense, EmbeddingMLP, GroupNorm, TypedModule, torch_default
from rewardedit_jax.models.post_norm import PostNormLayer
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
        heads, dropout = self.config.heads, self.config.dropout
        bert = BertCrossAttention(heads, dropout, kernel_init=torch_default, **self.types, name="ca")
        y = dense(name="proj_deal_proj_out")(bert(y, jnp.stack(tokens, axis=1), deterministic))
        return x + y.reshape(x.shape) * per_sample(reward.keep, y.reshape(x.shape))


class BertCrossAttention(PostNormLayer):
    """One post-norm BERT layer: LN(x + attention), LN(h + feed-forward), exact GELU, dropout in training."""

    dropout: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], tokens: Float[Array, "b k c"], deterministic: bool
    ) -> Float[Array, "b n c"]:
        drop = nn.Dropout(self.dropout, deterministic=deterministic)
        x = self.attend(x, tokens, None, "attention", drop, drop_weights=drop)
        return self.feed_forward(x, x.shape[-1], "hidden_intermediate", "output", drop)
