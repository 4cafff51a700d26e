"""Weight table of the autoencoder: diffusers' `AutoencoderKL` ⇄ `models.vae`."""

from rewardedit_jax.models.vae import AutoencoderConfig
from rewardedit_jax.weights.engine import POINTWISE, Rule, WeightTable, conv, linear, norm

# Our name, the torch name, and the older torch name in the published files of Stable Diffusion 1.5.
# Older weights are [C, C] or, where a converter kept 1×1 convolutions, [C, C, 1, 1]. Both are read.
_PROJECTIONS = (
    ("to_q", "to_q", "query"),
    ("to_k", "to_k", "key"),
    ("to_v", "to_v", "value"),
    ("to_out", "to_out.0", "proj_attn"),
)


def vae_table(config: AutoencoderConfig) -> WeightTable:
    """The rules of the parts that `config` has."""
    rules = []
    for half, blocks, sampler, resample in (
        ("encoder", "down_blocks", "downsamplers", "downsample"),
        ("decoder", "up_blocks", "upsamplers", "upsample"),
    ):
        level, level_path = f"{half}.{blocks}.{{i}}", f"{half}/{blocks}_{{i}}"
        mid, mid_path = f"{half}.mid_block", f"{half}/mid_block"
        rules += conv(f"{half}.conv_in", f"{half}/conv_in")
        rules += _resnets(level, level_path)
        # The samplers are lists of one; our modules are not.
        rules += conv(f"{level}.{sampler}.0.conv", f"{level_path}/{resample}")
        rules += _resnets(mid, mid_path)
        if config.mid_block_add_attention:
            rules += _attention(f"{mid}.attentions.0", f"{mid_path}/attentions_0")
        rules += norm(f"{half}.conv_norm_out", f"{half}/conv_norm_out")
        rules += conv(f"{half}.conv_out", f"{half}/conv_out")
    if config.use_quant_conv:
        rules += linear("quant_conv", "quant_conv", transform=POINTWISE)
    if config.use_post_quant_conv:
        rules += linear("post_quant_conv", "post_quant_conv", transform=POINTWISE)
    return WeightTable(tuple(rules))


def _resnets(torch: str, path: str) -> tuple[Rule, ...]:
    torch, path = f"{torch}.resnets.{{j}}", f"{path}/resnets_{{j}}"
    return (
        *norm(f"{torch}.norm{{k:1|2}}", f"{path}/norm{{k:1|2}}"),
        *conv(f"{torch}.conv{{k:1|2}}", f"{path}/conv{{k:1|2}}"),
        *linear(f"{torch}.conv_shortcut", f"{path}/conv_shortcut", transform=POINTWISE),
    )


def _attention(torch: str, path: str) -> tuple[Rule, ...]:
    rules = [*norm(f"{torch}.group_norm", f"{path}/group_norm")]
    for ours, new, old in _PROJECTIONS:
        # The old name becomes an alias: it is read, never written.
        rules += linear(f"{torch}.{new}", f"{path}/{ours}", aliases=(f"{torch}.{old}",))
    return tuple(rules)
