"""How a reward enters the U-Net: three scores in 0..5 and a feedback text, by attention and by addition.

"released": as the published weights of "Multi-Reward as Condition" have it. Scores and pooled feedback text go through
MLPs and linear maps; their sum joins the time embedding (addition), and the pair of them are the two tokens that a
post-norm cross-attention layer on the first feature map looks at (attention).

"paper": after the paper's equations 2, 3, 5 and 6. The tokens of the feedback text and one score token, each kind with
a learned type embedding, form the reward condition c_R. One transformer block on the first feature map attends to
Linear1(c_R); after every U-Net block a projection Linear2 of c_R is added to what goes on to the next block (not to the
skips). The equation adds a sequence of tokens to a feature map and leaves open how; here c_R is pooled first: the mean
of the text tokens and the score token count as equal parts, so that the score is not one voice among 77. Both begin at
zero: training starts from the unchanged editor.

`keep` is 1 for a sample with a reward and 0 for one without; everything that this file contributes is multiplied by it,
so that without a reward the U-Net is the plain editor, in both layouts and without further parameters.

Axes: b batch, h w latent rows and columns, c channels, l text tokens, d text width, e time-embedding width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from flax.linen.initializers import normal, zeros
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from rewardedit_jax.models.attention import attention
from rewardedit_jax.models.layers import Dense, EmbeddingMLP, GroupNorm, LayerNorm, sinusoid, torch_default
from rewardedit_jax.reward import PERSPECTIVES

LAYOUTS = ("released", "paper")
SOURCES = ("scores", "text")
PATHS = ("attention", "addition")
_TEXT_AXES = {"released": ("pooled", 2), "paper": ("per token", 3)}


@dataclass(frozen=True)
class RewardConditionConfig:
    """Which layout, what of a reward is read, where it acts, and whose perspectives count."""

    layout: str = "released"
    sources: tuple[str, ...] = SOURCES
    paths: tuple[str, ...] = PATHS
    perspectives: tuple[str, ...] = PERSPECTIVES
    heads: int = 8
    dropout: float = 0.1  # in the cross-attention of the released layout, while training
    score_channels: int = 256  # of the sinusoid of one score

    def __post_init__(self):
        if self.layout not in LAYOUTS:
            raise ValueError(f"reward layout {self.layout!r} is not one of {', '.join(LAYOUTS)}.")
        for name, known in (("sources", SOURCES), ("paths", PATHS), ("perspectives", PERSPECTIVES)):
            chosen = getattr(self, name)
            if not chosen or list(chosen) != [x for x in known if x in chosen]:
                raise ValueError(f"reward {name} {chosen!r} must be some of {known}, in this order, none twice.")

    @property
    def columns(self) -> tuple[int, ...]:
        """The columns of [following, preserving, quality] that are read."""
        return tuple(PERSPECTIVES.index(p) for p in self.perspectives)


# Tensors whose presence in a checkpoint tells what its reward modules read and where they act.
_TRACES = {
    "released": {
        "scores": ("add_embedding.linear_1.weight", "add_embedding2.linear_1.weight"),
        "text": ("text_linear.weight", "text_linear2.weight"),
        "attention": ("ca.output.dense.weight",),
        "addition": ("add_embedding.linear_1.weight", "text_linear2.weight"),
    },
    "paper": {
        "scores": ("reward_condition.score_embedding.linear_1.weight",),
        "text": ("reward_condition.text_type",),
        "attention": ("reward_attention.linear1.weight",),
        "addition": ("reward_addition.mid.linear2.weight",),
    },
}


def infer_reward_condition(tensor_shapes: Mapping[str, tuple[int, ...]]) -> RewardConditionConfig | None:
    """The configuration of reward modules from the names of their tensors; None where there are none.

    Heads, dropout and the width of a score's encoding leave no trace: they are taken to be the published ones.

    Raises:
      ValueError: if the names do not tell which perspectives the scores are of.
    """
    for layout, traces in _TRACES.items():
        found = {what: [name for name in names if name in tensor_shapes] for what, names in traces.items()}
        if any(found.values()):
            sources, paths = (tuple(x for x in known if found[x]) for known in (SOURCES, PATHS))
            config = RewardConditionConfig(layout, sources, paths)
            for name in found["scores"]:
                _check_score_width(tensor_shapes[name][1], config)
            return config
    return None


def _check_score_width(width: int, config: RewardConditionConfig) -> None:
    if width != len(PERSPECTIVES) * config.score_channels:
        raise ValueError(
            f"the scores of this reward U-Net are {width} wide, not {len(PERSPECTIVES)} × {config.score_channels}: "
            f'say which perspectives they are of under "reward_condition" in its config.json.'
        )


@flax.struct.dataclass
class Reward:
    """The reward inputs of a batch, as `read_reward` makes them."""

    scores: Float[Array, "b s"] | None  # sinusoids of the chosen scores, laid side by side
    text: Float[Array, "b d"] | Float[Array, "b l d"] | None  # pooled (released) or per token (paper)
    keep: Float[Array, " b"]


def read_reward(
    config: RewardConditionConfig,
    scores: Float[Array, "b 3"] | None,
    text: Float[Array, "b *states"] | None,
    keep: Float[Array, " b"] | Bool[Array, " b"] | None,
) -> Reward | None:
    """The reward of a batch, or None if there is none at all.

    Raises:
      ValueError: if what is given is not what this configuration reads.
    """
    if scores is None and text is None:
        return None
    given = [name for name, value in (("scores", scores), ("text", text)) if value is not None]
    if tuple(given) != config.sources:
        raise ValueError(f"this U-Net reads the reward's {' and '.join(config.sources)}, got {' and '.join(given)}.")
    form, axes = _TEXT_AXES[config.layout]
    if text is not None and text.ndim != axes:
        raise ValueError(f"this U-Net reads the reward's text {form}, with {axes} axes; got shape {text.shape}.")
    batch = (scores if scores is not None else text).shape[0]
    if scores is not None:
        chosen = scores[:, jnp.asarray(config.columns)]
        scores = sinusoid(chosen, config.score_channels).reshape(batch, -1)
    return Reward(scores, text, jnp.ones(batch) if keep is None else keep.astype(jnp.float32))


def _per_sample(keep: Float[Array, " b"], ndim: int) -> Float[Array, "b ..."]:
    return keep.reshape(-1, *(1,) * (ndim - 1))


class ReleasedAddition(nn.Module):
    """Scores and pooled text as one vector beside the time embedding, which every residual block projects anew."""

    config: RewardConditionConfig
    width: int  # of the time embedding
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, reward: Reward) -> Float[Array, "b {self.width}"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        parts = []
        if reward.scores is not None:
            parts.append(EmbeddingMLP(self.width, **types, name="add_embedding")(reward.scores))
        if reward.text is not None:
            parts.append(Dense(self.width, **types, kernel_init=torch_default, name="text_linear2")(reward.text))
        return sum(parts) * reward.keep[:, None].astype(self.dtype)


class ReleasedAttention(nn.Module):
    """Group norm, 1×1 in, BERT's post-norm cross-attention to the two reward tokens, 1×1 out; a residual."""

    config: RewardConditionConfig
    groups: int
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], reward: Reward, deterministic: bool) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dense = partial(Dense, c, **types, kernel_init=torch_default)
        tokens = []
        if reward.scores is not None:
            tokens.append(EmbeddingMLP(c, **types, name="add_embedding2")(reward.scores))
        if reward.text is not None:
            tokens.append(dense(name="text_linear")(reward.text))
        y = GroupNorm(self.groups, 1e-6, **types, name="proj_deal_norm")(x)
        y = dense(name="proj_deal_proj_in")(y.reshape(b, h * w, c))
        bert = BertCrossAttention(self.config.heads, self.config.dropout, **types, name="ca")
        y = dense(name="proj_deal_proj_out")(bert(y, jnp.stack(tokens, axis=1), deterministic))
        return x + y.reshape(x.shape) * _per_sample(reward.keep, 4).astype(self.dtype)


class BertCrossAttention(nn.Module):
    """One BERT layer: LN(x + attention), LN(h + feed-forward), exact GELU, dropout while training."""

    heads: int
    dropout: float
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], tokens: Float[Array, "b k c"], deterministic: bool
    ) -> Float[Array, "b n c"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dense = partial(Dense, x.shape[-1], **types, kernel_init=torch_default)
        norm = partial(LayerNorm, 1e-12, **types)
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
        """Attention of many queries to at most two keys; written out, because the probabilities are dropped too."""
        query, key, value = (y.reshape(*y.shape[:2], self.heads, -1) for y in (query, key, value))
        if drop is None:
            return attention(query, key, value).reshape(*query.shape[:2], -1)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
        weights = drop(jax.nn.softmax(scores * query.shape[-1] ** -0.5, axis=-1)).astype(self.dtype)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(*query.shape[:2], -1)


class PaperCondition(nn.Module):
    """c_R, equations 5 and 6: text tokens and score token, each kind with its type embedding."""

    width: int  # d of the text encoder
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, reward: Reward) -> tuple[Float[Array, "b k d"], Float[Array, "b d"]]:
        """(all tokens, the pooled condition)."""
        kinds = []
        if reward.text is not None:
            kinds.append(reward.text.astype(self.dtype) + self._type("text"))
        if reward.scores is not None:
            mlp = EmbeddingMLP(self.width, self.dtype, self.param_dtype, name="score_embedding")
            kinds.append(mlp(reward.scores)[:, None] + self._type("score"))
        pooled = sum(tokens.mean(axis=1) for tokens in kinds) / len(kinds)
        return jnp.concatenate(kinds, axis=1), pooled

    def _type(self, kind: str) -> Float[Array, " d"]:
        return self.param(f"{kind}_type", normal(0.02), (self.width,), self.param_dtype).astype(self.dtype)


class PaperAttention(nn.Module):
    """CA(Z', Linear1(c_R)), equation 2: one pre-norm transformer block, its two outputs zero at the start."""

    heads: int
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], tokens: Float[Array, "b k d"], keep: Float[Array, " b"]
    ) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dense = partial(Dense, **types, kernel_init=torch_default)
        keep = _per_sample(keep, 3).astype(self.dtype)
        z, reward = x.reshape(b, h * w, c), dense(c, name="linear1")(tokens)
        queries = LayerNorm(**types, name="norm1")(z)
        query, key, value = (
            dense(c, name=name)(y).reshape(*y.shape[:2], self.heads, -1)
            for name, y in (("to_q", queries), ("to_k", reward), ("to_v", reward))
        )
        seen = attention(query, key, value).reshape(z.shape)
        z = z + keep * Dense(c, **types, kernel_init=zeros, name="to_out")(seen)
        y = jax.nn.gelu(dense(4 * c, name="fc1")(LayerNorm(**types, name="norm2")(z)), approximate=False)
        z = z + keep * Dense(c, **types, kernel_init=zeros, name="fc2")(y)
        return z.reshape(x.shape)


class PaperAddition(nn.Module):
    """Linear2(c_R), equation 3: what is added to the output of one U-Net block; zero at the start."""

    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], pooled: Float[Array, "b d"], keep: Float[Array, " b"]
    ) -> Float[Array, "b h w c"]:
        added = Dense(x.shape[-1], dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=zeros, name="linear2")
        return x + (added(pooled) * keep[:, None].astype(self.dtype))[:, None, None, :]
