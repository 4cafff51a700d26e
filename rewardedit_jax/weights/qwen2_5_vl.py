"""Weight table of Qwen2.5-VL and EditReward: transformers and published reward checkpoints ⇄ `models.edit_reward`."""

from rewardedit_jax.models.edit_reward import EditRewardConfig
from rewardedit_jax.weights.engine import COPY, Rule, Transform, WeightTable, linear, prefixed


def edit_reward_table(config: EditRewardConfig) -> WeightTable:
    """The rules of the backbone, and of the heads if the network has any."""
    # State dicts of transformers 4.52 and later have the second prefixes, files that `save_pretrained` writes the
    # first. Both are read. The first, which every version of transformers reads, are written.
    rules = (
        *prefixed(_vision(config), "visual.", "model.visual."),
        *prefixed(DECODER, "model.", "model.language_model."),
        *_heads(config),
    )
    # Nothing here predicts tokens, so that the output layer is not read. The reward is read from a hidden state.
    return WeightTable(rules, ignore=(r"lm_head\.weight",))


def _vision(config: EditRewardConfig) -> tuple[Rule, ...]:
    vision = config.vision
    volume = (vision.in_channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    # The patch embedding is a Conv3d with strides as long as its kernel: a dense layer on flattened patches.
    patch = Transform(lambda x: x.reshape(len(x), -1).T, lambda x: x.T.reshape(-1, *volume))
    return (
        Rule("patch_embed.proj.weight", "visual/patch_embed/proj/kernel", patch),  # without bias
        # RMS norms have a weight only.
        Rule("blocks.{i}.norm{k}.weight", "visual/blocks_{i}/norm{k}/scale", COPY),
        *linear("blocks.{i}.attn.{p:qkv|proj}", "visual/blocks_{i}/attn/{p}"),
        *linear("blocks.{i}.mlp.{p:gate|up|down}_proj", "visual/blocks_{i}/mlp/{p}_proj"),
        Rule("merger.ln_q.weight", "visual/merger/ln_q/scale", COPY),
        # Layers 0 and 2 of an nn.Sequential; 1 is the activation.
        *linear("merger.mlp.{i}", "visual/merger/mlp_{i}"),
    )


# LLaMA has the same names (`weights.smartedit`).
DECODER = (
    Rule("embed_tokens.weight", "decoder/embed_tokens/embedding", COPY),
    Rule("layers.{i}.{n:input|post_attention}_layernorm.weight", "decoder/layers_{i}/{n}_layernorm/scale", COPY),
    # Only q, k and v have biases. Any other bias would be a fault, as the network has no such parameter.
    *linear("layers.{i}.self_attn.{p:q|k|v|o}_proj", "decoder/layers_{i}/self_attn/{p}_proj"),
    *linear("layers.{i}.mlp.{p:gate|up|down}_proj", "decoder/layers_{i}/mlp/{p}_proj"),
    Rule("norm.weight", "decoder/norm/scale", COPY),
)


def _heads(config: EditRewardConfig) -> tuple[Rule, ...]:
    """The rules of `RewardHeads`."""
    if config.heads is None:
        return ()
    # `i` numbers the layers of the published nn.Sequential; those without parameters have numbers too.
    if config.heads.kind == "separate":
        return linear("rm_heads.head_{h}.{i}", "heads/head_{h}/dense_{i}")
    return linear("rm_head.{i}", "heads/head/dense_{i}")
