"""SmartEdit's Q-Former: learned queries that turn a language model's states into the context of the U-Net.

Huang et al., "SmartEdit" (CVPR 2024); the query path of BLIP-2's Q-Former (Li et al., 2023): a BERT without words and
positions, some of whose layers attend to the states. Parameters have the names of the published files, with "_" for
"." in a layer. Axes: b batch, q queries, k states, c width, d width of the states.
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.initializers import normal
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from rewardedit_jax.models import layers
from rewardedit_jax.models.encoder import EncoderConfig
from rewardedit_jax.models.layers import LayerNorm, TypedModule
from rewardedit_jax.models.post_norm import PostNormLayer

# Columns of the first, rows of the second kernel over "tensor": one reduction per attention and one per feed-forward.
PARTITION_RULES = (
    (r"(.*/)?layers_\d+/(cross)?attention_self_(query|key|value)/kernel", P("fsdp", "tensor")),
    (r"(.*/)?layers_\d+/(cross)?attention_output_dense/kernel", P("tensor", "fsdp")),
    (r"(.*/)?layers_\d+/intermediate_query_dense/kernel", P("fsdp", "tensor")),
    (r"(.*/)?layers_\d+/output_query_dense/kernel", P("tensor", "fsdp")),
    (r"(.*/)?query_tokens", P()),  # small
    (r".*/(bias|scale)", P()),
)

Queries = Float[Array, "b q c"]
Mask = Bool[Array, "b 1 1 k"] | None


@dataclass(frozen=True, kw_only=True)
class QFormerConfig(EncoderConfig):
    """Sizes, under the names of transformers' `Blip2QFormerConfig`; the defaults are those of SmartEdit-7B."""

    _model_type = "smartedit_qformer"

    hidden_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    cross_attention_frequency: int = 2  # layers 0, n, 2n, ... attend to the states
    encoder_hidden_size: int = 4096  # d
    num_queries: int = 77

    def __post_init__(self):
        super().__post_init__()
        if self.hidden_act != "gelu":
            raise ValueError(f"hidden_act={self.hidden_act!r} of a Q-Former: expected 'gelu'")

    def to_hf(self) -> dict[str, Any]:
        """The fields of a config.json."""
        return {"architectures": ["SmartEditQFormer"], "model_type": self._model_type, **asdict(self)}


class QFormerLayer(PostNormLayer):
    """Self-attention of the queries, cross-attention to the states if there are any, and a feed-forward part."""

    config: QFormerConfig

    @nn.compact
    def __call__(self, x: Queries, states: Float[Array, "b k d"] | None, mask: Mask, deterministic: bool) -> Queries:
        c = self.config
        drop = nn.Dropout(c.hidden_dropout_prob, deterministic=deterministic)
        drop_weights = nn.Dropout(c.attention_probs_dropout_prob, deterministic=deterministic)
        x = self.attend(x, x, None, "attention", drop, drop_weights)
        if states is not None:
            x = self.attend(x, states, mask, "crossattention", drop, drop_weights)
        return self.feed_forward(x, c.intermediate_size, "intermediate_query", "output_query", drop)


class QFormer(TypedModule):
    """States of a language model → the context that the U-Net's cross-attention reads."""

    config: QFormerConfig

    @nn.compact
    def __call__(
        self, states: Float[Array, "b k d"], mask: Bool[Array, "b k"] | None = None, deterministic: bool = True
    ) -> Queries:
        """One row per query.

        Args:
          mask: True at the states that queries attend to; None: all. A row without any attends to all alike.
          deterministic: False drops activations and attention probabilities, with random numbers named "dropout".

        Raises ValueError if the states have another width.
        """
        c = self.config
        if states.shape[-1] != c.encoder_hidden_size:
            raise ValueError(
                f"states of width {states.shape[-1]}: expected encoder_hidden_size={c.encoder_hidden_size}"
            )
        # Without this, XLA (jax 0.10.2) computes wrong gradients of a language model whose states are sliced for this
        # network, on meshes where data, fsdp and tensor are all above 1.
        states = layers.shard_batch_axis(states)
        tokens = self.param("query_tokens", normal(0.02), (1, c.num_queries, c.hidden_size), self.param_dtype)
        x = LayerNorm(c.layer_norm_eps, **self.types, name="embeddings_LayerNorm")(tokens)
        # Nothing says how copies of a parameter are divided: each device would compute the queries of the whole batch.
        x = layers.shard_batch_axis(jnp.broadcast_to(x, (len(states), *x.shape[1:])))
        x = nn.Dropout(c.hidden_dropout_prob, deterministic=deterministic)(x)
        seen = None if mask is None else mask[:, None, None]
        layer = partial(QFormerLayer, c.num_attention_heads, epsilon=c.layer_norm_eps, config=c, **self.types)
        for i in range(c.num_hidden_layers):
            read = states if i % c.cross_attention_frequency == 0 else None
            x = layer(name=f"layers_{i}")(x, read, seen, deterministic)
        return x

    def example_inputs(self) -> tuple[Float[Array, "1 1 d"]]:
        return (jnp.zeros((1, 1, self.config.encoder_hidden_size)),)
