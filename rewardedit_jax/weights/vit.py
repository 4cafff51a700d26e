"""Weight tables of DINO's and DINOv2's vision transformers: transformers ⇄ `models.vit`.

Torch names are those of the files on the Hugging Face hub, which all versions of transformers write.
"""

from rewardedit_jax.models.vit import Dinov2Config, ViTConfig
from rewardedit_jax.weights.engine import COPY, Rule, Transform, WeightTable, conv, linear, norm

_TOKEN = Transform(lambda x: x.reshape(x.shape[-1:]), lambda x: x[None, None])  # [1, 1, d] → [d]
_POSITIONS = Transform(lambda x: x.reshape(x.shape[-2:]), lambda x: x[None])  # [1, n, d] → [n, d]
_LAYER, _PATH = "encoder.layer.{i}", "encoder/layers_{i}"
_SHARED = (
    Rule("embeddings.cls_token", "embeddings/class_embedding", _TOKEN),
    Rule("embeddings.position_embeddings", "embeddings/position_embedding/embedding", _POSITIONS),
    *conv("embeddings.patch_embeddings.projection", "embeddings/patch_embedding"),
    # One rule for each projection: the names have a word where ours have a letter.
    *linear(f"{_LAYER}.attention.attention.query", f"{_PATH}/self_attn/q_proj"),
    *linear(f"{_LAYER}.attention.attention.key", f"{_PATH}/self_attn/k_proj"),
    *linear(f"{_LAYER}.attention.attention.value", f"{_PATH}/self_attn/v_proj"),
    *linear(f"{_LAYER}.attention.output.dense", f"{_PATH}/self_attn/out_proj"),
    *norm("layernorm", "layernorm"),
)
_MASK_TOKEN = r"embeddings\.mask_token"  # takes the place of patches in training


def vit_table(config: ViTConfig) -> WeightTable:
    """Rules of transformers' `ViTModel`. Its pooler, which DINO's files do not have, is not read."""
    rules = (
        *_SHARED,
        *linear(f"{_LAYER}.intermediate.dense", f"{_PATH}/mlp/fc1"),
        *linear(f"{_LAYER}.output.dense", f"{_PATH}/mlp/fc2"),
        *norm(f"{_LAYER}.layernorm_before", f"{_PATH}/layer_norm1"),
        *norm(f"{_LAYER}.layernorm_after", f"{_PATH}/layer_norm2"),
    )
    return WeightTable(rules, (_MASK_TOKEN, r"pooler\.dense\.(weight|bias)"))


def dinov2_table(config: Dinov2Config) -> WeightTable:
    """Rules of transformers' `Dinov2Model`."""
    first, second = ("weights_in", "weights_out") if config.gated else ("fc1", "fc2")
    rules = (
        *_SHARED,
        *linear(f"{_LAYER}.mlp.{first}", f"{_PATH}/mlp/fc1"),
        *linear(f"{_LAYER}.mlp.{second}", f"{_PATH}/mlp/fc2"),
        *norm(f"{_LAYER}.norm{{n}}", f"{_PATH}/layer_norm{{n}}"),
        Rule(f"{_LAYER}.layer_scale{{n}}.lambda1", f"{_PATH}/layer_scale{{n}}", COPY),
    )
    return WeightTable(rules, (_MASK_TOKEN,))
