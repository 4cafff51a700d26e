"""The reward modules of the equations of "Multi-Reward as Condition" (arXiv:2411.04713), eq. 2, 3, 5 and 6.

The tokens of the feedback text (eq. 5) and one score token (eq. 6), each kind with a learned type embedding, are the
reward condition c_R (section 4.3). One transformer block on the first feature map attends to Linear1(c_R) (eq. 2).
Behind every U-Net block, Linear2(c_R) is added to the input of the next block (eq. 3), not to the skips.

Eq. 3 adds a sequence of tokens to a feature map and does not say how. Here the mean over the tokens is added. The score
token is repeated as often as there are text tokens. Otherwise it had 1/78 of the weight, in the mean and in the
attention, which starts nearly uniform. Both paths start from zero: training starts from the unchanged base editor.
Axes: as in `reward_condition`; k tokens of c_R.
"""

from functools import partial

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from flax.linen.initializers import Initializer, normal, zeros
from jaxtyping import Array, Float

from rewardedit_jax.models.attention import attention
from rewardedit_jax.models.layers import Dense, EmbeddingMLP, LayerNorm, TypedModule
from rewardedit_jax.models.reward_condition import (
    EncodedReward,
    FeatureMap,
    RewardConditionConfig,
    RewardModules,
    per_sample,
)


@flax.struct.dataclass
class PaperCondition:
    """The reward condition c_R of a batch."""

    tokens: Float[Array, "b k d"]
    pooled: Float[Array, "b d"]
    keep: Float[Array, " b"]


class PaperReward(TypedModule, RewardModules):
    """The reward modules of one U-Net."""

    config: RewardConditionConfig
    text_width: int
    blocks: tuple[str, ...]  # names of the U-Net's blocks, each of which has its own Linear2

    def setup(self):
        self.reward_condition = ConditionModule(self.text_width, **self.types)
        if "attention" in self.config.paths:
            self.reward_attention = PaperAttention(self.config.heads, **self.types)
        if "addition" in self.config.paths:
            self.reward_addition = {block: PaperAddition(**self.types) for block in self.blocks}

    def condition(self, reward: EncodedReward) -> PaperCondition:
        return self.reward_condition(reward)

    def encode(self, x: FeatureMap, condition: PaperCondition, deterministic: bool) -> FeatureMap:
        return self.reward_attention(x, condition) if "attention" in self.config.paths else x

    def after_block(self, x: FeatureMap, block: str, condition: PaperCondition) -> FeatureMap:
        return self.reward_addition[block](x, condition) if "addition" in self.config.paths else x


class ConditionModule(TypedModule):
    """The multi-reward condition module of section 4.3: encoded reward → c_R."""

    text_width: int

    @nn.compact
    def __call__(self, reward: EncodedReward) -> PaperCondition:
        kinds = []
        if reward.text is not None:  # E_t, eq. 5; the frozen text encoder has computed it
            kinds.append(reward.text.astype(self.dtype) + self._type_embedding("text"))
        if reward.scores is not None:  # E_s, eq. 6
            mlp = EmbeddingMLP(self.text_width, **self.types, name="score_embedding")
            score = mlp(reward.scores)[:, None] + self._type_embedding("score")
            # As many as text tokens: equal weights for the two kinds, see above.
            kinds.append(jnp.repeat(score, kinds[0].shape[1] if kinds else 1, axis=1))
        tokens = jnp.concatenate(kinds, axis=1)
        return PaperCondition(tokens, tokens.mean(axis=1), reward.keep)

    def _type_embedding(self, kind: str) -> Float[Array, " d"]:
        return self.param(f"{kind}_type", normal(0.02), (self.text_width,), self.param_dtype).astype(self.dtype)


class PaperAttention(TypedModule):
    """The reward encoder CA(Z', Linear1(c_R)), eq. 2: a pre-norm transformer block with queries from Z'."""

    heads: int

    @nn.compact
    def __call__(self, x: FeatureMap, condition: PaperCondition) -> FeatureMap:
        b, h, w, c = x.shape
        dense, from_zero = partial(Dense, **self.types), partial(DenseFromZero, c, **self.types)
        norm = partial(LayerNorm, 1e-5, **self.types)
        z, reward = x.reshape(b, h * w, c), dense(c, name="linear1")(condition.tokens)
        keep = per_sample(condition.keep, reward)
        # Cross-attention: the block has no self-attention, as eq. 2 names queries, keys and values only.
        queries = norm(name="norm1")(z)
        query, key, value = (
            dense(c, name=name)(y).reshape(*y.shape[:2], self.heads, -1)
            for name, y in (("to_q", queries), ("to_k", reward), ("to_v", reward))
        )
        z = z + keep * from_zero(name="to_out")(attention(query, key, value).reshape(z.shape))
        # Feed-forward
        y = jax.nn.gelu(dense(4 * c, name="fc1")(norm(name="norm2")(z)), approximate=False)
        return (z + keep * from_zero(name="fc2")(y)).reshape(x.shape)


class PaperAddition(TypedModule):
    """Adds Linear2(c_R), eq. 3, to the output of one U-Net block."""

    @nn.compact
    def __call__(self, x: FeatureMap, condition: PaperCondition) -> FeatureMap:
        added = DenseFromZero(x.shape[-1], **self.types, name="linear2")(condition.pooled)
        return x + (added * per_sample(condition.keep, added))[:, None, None, :]


class DenseFromZero(Dense):
    """A projection that starts as zero. Adam moves its output as fast as that of one with 1024 inputs.

    Adam moves each weight by about the learning rate per step, and the output by that times the width of the input. In
    a narrow network the reward would stay small beside the features of the U-Net for as long as it is fine-tuned.
    """

    kernel_init: Initializer = zeros

    def __call__(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        return super().__call__(x) * (1024 / x.shape[-1])
