"""Weight tables of CLIP: its towers alone, and the whole model; transformers ⇄ `models.clip`, `models.clip_vision`."""

from collections.abc import Iterable
from dataclasses import replace

from rewardedit_jax.models.clip import CLIPConfig, CLIPTextConfig
from rewardedit_jax.models.clip_vision import CLIPVisionConfig
from rewardedit_jax.weights.engine import CONV, COPY, Rule, WeightTable, linear, norm, prefixed

_ENCODER = (
    # Both towers have the same encoder.
    *linear("encoder.layers.{i}.self_attn.{p:q|k|v|out}_proj", "encoder/layers_{i}/self_attn/{p}_proj"),
    *linear("encoder.layers.{i}.mlp.fc{n}", "encoder/layers_{i}/mlp/fc{n}"),
    *norm("encoder.layers.{i}.layer_norm{n}", "encoder/layers_{i}/layer_norm{n}"),
    Rule("embeddings.position_embedding.weight", "embeddings/position_embedding/embedding", COPY),
)
# transformers 4 writes names with the prefix. Of a tower alone, version 5 writes none, and reads both.
_TEXT = prefixed(
    (
        *_ENCODER,
        Rule("embeddings.token_embedding.weight", "embeddings/token_embedding/embedding", COPY),
        *norm("final_layer_norm", "final_layer_norm"),
    ),
    "text_model.",
    "",
)
_VISION = prefixed(
    (
        *_ENCODER,
        Rule("embeddings.class_embedding", "embeddings/class_embedding", COPY),
        Rule("embeddings.patch_embedding.weight", "embeddings/patch_embedding/kernel", CONV),
        *norm("{side:pre_layrnorm|post_layernorm}", "{side}"),  # "layrnorm": spelt so in the files
    ),
    "vision_model.",
    "",
)
# The projections lie beside the towers, without their prefixes.
_TEXT_PROJECTION, _VISUAL_PROJECTION = (linear(name, name) for name in ("text_projection", "visual_projection"))
_IGNORED = (
    r"(text_model\.|vision_model\.)?embeddings\.position_ids",  # a buffer of older files
    r"logit_scale",  # a parameter of the contrastive loss
)


def text_table(config: CLIPTextConfig) -> WeightTable:
    """Rules for files of a text tower, with or without projection, or of a whole CLIP model."""
    return WeightTable(
        _TEXT, (*_IGNORED, r"text_projection\.weight", r"vision_model\..*", r"visual_projection\.weight")
    )


def vision_table(config: CLIPVisionConfig) -> WeightTable:
    """Rules for files of an image tower, or of a whole CLIP model."""
    ignored = (*_IGNORED, r"text_projection\.weight", r"text_model\..*")
    if config.projection_dim is None:
        return WeightTable(_VISION, (*ignored, r"visual_projection\.weight"))
    return WeightTable((*_VISION, *_VISUAL_PROJECTION), ignored)


def clip_table(config: CLIPConfig) -> WeightTable:
    """Rules for files of a whole CLIP model."""
    towers = (*_below("text", _TEXT), *_below("vision", (*_VISION, *_VISUAL_PROJECTION)))
    return WeightTable((*towers, *_TEXT_PROJECTION), _IGNORED)


def _below(tower: str, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules for the parameters of a tower in the whole model, whose files have the names with prefixes only."""
    return tuple(replace(rule, path=f"{tower}/{rule.path}", aliases=()) for rule in rules)
