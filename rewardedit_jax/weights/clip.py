"""Names of CLIP's towers in Hugging Face files.

We write names with the tower's prefix, as transformers 4 has them: version 5, which has none in a text tower, drops it
when it reads. Names without the prefix are read as aliases.
A file of the whole of CLIP serves as well: the other tower and the contrastive heads are ignored by name.
"""

from dataclasses import replace

from rewardedit_jax.models.clip import CLIPTextConfig, CLIPVisionConfig
from rewardedit_jax.weights.engine import CONV, COPY, LINEAR, Rule, WeightTable, linear, norm

_ENCODER = (
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
    *norm("{side:pre_layrnorm|post_layernorm}", "{side}"),
)
# The buffer of older files, and what only a contrastive model has.
_IGNORE = (
    r"(text_model\.|vision_model\.)?embeddings\.position_ids",
    r"text_projection\.weight",
    r"logit_scale",
)


def text_table(config: CLIPTextConfig) -> WeightTable:
    """Rules of `CLIPTextModel`, read from the files of a text tower, with or without projection, or of a full CLIP."""
    return WeightTable(_below("text_model", _TEXT), (*_IGNORE, r"vision_model\..*", r"visual_projection\.weight"))


def vision_table(config: CLIPVisionConfig) -> WeightTable:
    """Rules of `CLIPVisionModel`, read from the files of an image tower with its projection, or of a full CLIP."""
    projection = Rule("visual_projection.weight", "visual_projection/kernel", LINEAR)
    return WeightTable((*_below("vision_model", _VISION), projection), (*_IGNORE, r"text_model\..*"))


def _below(prefix: str, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The rules under a prefix; names without it become aliases."""
    return tuple(replace(rule, torch=f"{prefix}.{rule.torch}", aliases=(rule.torch,)) for rule in rules)
