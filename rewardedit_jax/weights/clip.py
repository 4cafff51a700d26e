"""Weight tables of CLIP's towers: Hugging Face's `CLIPTextModel` and `CLIPVisionModelWithProjection` ⇄ `models.clip`.

Names are written with the tower's prefix, as transformers 4 has them; transformers 5, whose text model has no prefix,
drops it when it reads. Names without the prefix are read as aliases. The files of a whole CLIP model load too: the
other tower and the contrastive heads are ignored by name.
"""

from dataclasses import replace

from rewardedit_jax.models.clip import CLIPTextConfig, CLIPVisionConfig
from rewardedit_jax.weights.engine import CONV, COPY, LINEAR, Rule, WeightTable, linear, norm

_ENCODER = (
    # Both towers have the same encoder.
    *linear("encoder.layers.{i}.self_attn.{p:q|k|v|out}_proj", "encoder/layers_{i}/self_attn/{p}_proj"),
    *linear("encoder.layers.{i}.mlp.fc{n}", "encoder/layers_{i}/mlp/fc{n}"),
    *norm("encoder.layers.{i}.layer_norm{n}", "encoder/layers_{i}/layer_norm{n}"),
    Rule("embeddings.position_embedding.weight", "embeddings/position_embedding/embedding", COPY),
)
_TEXT = (
    *_ENCODER,
    Rule("embeddings.token_embedding.weight", "embeddings/token_embedding/embedding", COPY),
    *norm("final_layer_norm", "final_layer_norm"),
)
_VISION = (
    *_ENCODER,
    Rule("embeddings.class_embedding", "embeddings/class_embedding", COPY),
    Rule("embeddings.patch_embedding.weight", "embeddings/patch_embedding/kernel", CONV),
    *norm("{side:pre_layrnorm|post_layernorm}", "{side}"),  # "layrnorm": spelt so in the files
)
# A buffer of older files, and the parameters of the contrastive loss.
_IGNORE = (
    r"(text_model\.|vision_model\.)?embeddings\.position_ids",
    r"text_projection\.weight",
    r"logit_scale",
)


def text_table(config: CLIPTextConfig) -> WeightTable:
    """Rules of `CLIPTextModel`, for files of a text tower, with or without projection, or of a whole CLIP model."""
    return WeightTable(_below("text_model", _TEXT), (*_IGNORE, r"vision_model\..*", r"visual_projection\.weight"))


def vision_table(config: CLIPVisionConfig) -> WeightTable:
    """Rules of `CLIPVisionModel`, for files of an image tower with its projection, or of a whole CLIP model."""
    # The projection lies beside the tower, without its prefix.
    projection = Rule("visual_projection.weight", "visual_projection/kernel", LINEAR)
    return WeightTable((*_below("vision_model", _VISION), projection), (*_IGNORE, r"text_model\..*"))


def _below(prefix: str, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The rules with a prefix before their torch names; names without the prefix become aliases."""
    return tuple(replace(rule, torch=f"{prefix}.{rule.torch}", aliases=(rule.torch,)) for rule in rules)
