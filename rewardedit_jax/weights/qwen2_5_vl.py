"""Weight table of Qwen2.5-VL and EditReward: transformers and published reward checkpoints ⇄ `models.edit_reward`.

There are two layouts of names. State dicts of transformers 4.52 and later have `model.visual` and
`model.language_model`, files written by `save_pretrained` have `visual` and `model`. Both are read. The second, which
every version of transformers reads, is written.
"""

from rewardedit_jax.models.edit_reward import EditRewardConfig
from rewardedit_jax.weights.engine import COPY, Rule, Transform, WeightTable, linear, norm

# Prefixes: written, and the alias that is read too.
_TEXT, _TEXT_ALIAS = "model", "model.language_model"
_VISION, _VISION_ALIAS = "visual", "model.visual"


def edit_reward_table(config: EditRewardConfig) -> WeightTable:
    """The rules, with those of the heads if the network has any. The output layer is ignored."""
    rules = (*_vision(config), *_text(), *_heads(config))
    return WeightTable(rules, ignore=(r"lm_head\.weight",))


def _vision(config: EditRewardConfig) -> tuple[Rule, ...]:
    vision = config.vision
    volume = (vision.in_channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    # The patch embedding is a Conv3d with strides as long as its kernel: a dense layer on flattened patches.
    patch = Transform(lambda x: x.reshape(len(x), -1).T, lambda x: x.T.reshape(-1, *volume))
    return (
        *_linear(_VISION, "patch_embed.proj", "visual/patch_embed/proj", patch)[:1],  # without bias
        *_norm(_VISION, "blocks.{i}.norm{k}", "visual/blocks_{i}/norm{k}"),
        *_linear(_VISION, "blocks.{i}.attn.{p:qkv|proj}", "visual/blocks_{i}/attn/{p}"),
        *_linear(_VISION, "blocks.{i}.mlp.{p:gate|up|down}_proj", "visual/blocks_{i}/mlp/{p}_proj"),
        *_norm(_VISION, "merger.ln_q", "visual/merger/ln_q"),
        # Layers 0 and 2 of an nn.Sequential; 1 is the activation.
        *_linear(_VISION, "merger.mlp.{i}", "visual/merger/mlp_{i}"),
    )


def _text() -> tuple[Rule, ...]:
    embedding = Rule(
        f"{_TEXT}.embed_tokens.weight",
        "decoder/embed_tokens/embedding",
        COPY,
        (f"{_TEXT_ALIAS}.embed_tokens.weight",),
    )
    return (
        embedding,
        *_norm(_TEXT, "layers.{i}.{n:input|post_attention}_layernorm", "decoder/layers_{i}/{n}_layernorm"),
        *_linear(_TEXT, "layers.{i}.self_attn.{p:q|k|v|o}_proj", "decoder/layers_{i}/self_attn/{p}_proj"),
        *_linear(_TEXT, "layers.{i}.mlp.{p:gate|up|down}_proj", "decoder/layers_{i}/mlp/{p}_proj"),
        *_norm(_TEXT, "norm", "decoder/norm"),
    )


def _heads(config: EditRewardConfig) -> tuple[Rule, ...]:
    """The rules of `RewardHeads`; the layer numbers are those of the published nn.Sequential."""
    if config.heads is None:
        return ()
    if config.heads.kind == "separate":
        return linear("rm_heads.head_{h}.{i}", "heads/head_{h}/dense_{i}")
    return linear("rm_head.{i}", "heads/head/dense_{i}")


def _linear(tower: str, torch: str, path: str, *transform: Transform) -> tuple[Rule, ...]:
    return linear(f"{tower}.{torch}", path, (f"{_alias(tower)}.{torch}",), *transform)


def _norm(tower: str, torch: str, path: str) -> tuple[Rule, ...]:
    # The weight only: RMS norms have no bias.
    return norm(f"{tower}.{torch}", path, (f"{_alias(tower)}.{torch}",))[:1]


def _alias(tower: str) -> str:
    return _TEXT_ALIAS if tower == _TEXT else _VISION_ALIAS
