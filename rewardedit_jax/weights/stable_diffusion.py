"""Weight tables of Stable Diffusion's own networks: the autoencoder, and the U-Net with its reward modules.

Torch names are those that diffusers writes; older names in published files are aliases. The text encoder is CLIP's
(`weights.clip`).
"""

import jax.numpy as jnp

from rewardedit_jax.models.unet import UNetConfig
from rewardedit_jax.models.vae import AutoencoderConfig
from rewardedit_jax.params import Params
from rewardedit_jax.weights.engine import COPY, LINEAR, POINTWISE, Rule, WeightTable, conv, linear, norm


def vae_table(config: AutoencoderConfig) -> WeightTable:
    """Rules of diffusers' `AutoencoderKL`, for the parts that `config` has."""
    rules = [
        *conv("{half:encoder|decoder}.{end:conv_in|conv_out}", "{half}/{end}"),
        *norm("{half:encoder|decoder}.conv_norm_out", "{half}/conv_norm_out"),
        # The samplers are lists of one module in diffusers.
        *conv("encoder.down_blocks.{i}.downsamplers.0.conv", "encoder/down_blocks_{i}/downsample"),
        *conv("decoder.up_blocks.{i}.upsamplers.0.conv", "decoder/up_blocks_{i}/upsample"),
    ]
    for torch, path in (("{side:down|up}_blocks.{i}", "{side}_blocks_{i}"), ("mid_block", "mid_block")):
        torch, path = f"{{half:encoder|decoder}}.{torch}.resnets.{{j}}", f"{{half}}/{path}/resnets_{{j}}"
        rules += norm(f"{torch}.norm{{k:1|2}}", f"{path}/norm{{k}}")
        rules += conv(f"{torch}.conv{{k:1|2}}", f"{path}/conv{{k}}")
        rules += linear(f"{torch}.conv_shortcut", f"{path}/conv_shortcut", transform=POINTWISE)
    if config.mid_block_add_attention:
        torch, path = "{half:encoder|decoder}.mid_block.attentions.0", "{half}/mid_block/attentions_0"
        rules += norm(f"{torch}.group_norm", f"{path}/group_norm")
        # The aliases are the names in the published files of Stable Diffusion 1.5. Their weights are [C, C] or, where a
        # converter kept 1×1 convolutions, [C, C, 1, 1]; `LINEAR` reads both.
        for name, alias in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            rules += linear(f"{torch}.{name}", f"{path}/{name.removesuffix('.0')}", (f"{torch}.{alias}",))
    # FLUX's autoencoder has neither. A table without these rules lists such tensors as faults.
    for name, present in (("quant_conv", config.use_quant_conv), ("post_quant_conv", config.use_post_quant_conv)):
        rules += linear(name, name, transform=POINTWISE) if present else ()
    return WeightTable(tuple(rules))


def unet_table(config: UNetConfig) -> WeightTable:
    """Rules of diffusers' `UNet2DConditionModel`, with those of the reward modules that `config` has."""
    # The samplers are lists of one module in diffusers.
    sampler = "{side:down|up}_blocks.{level}.{what:downsamplers|upsamplers}"
    rules = (
        *linear("time_embedding.{layer:linear_1|linear_2}", "time_embedding/{layer}"),
        *conv("{end:conv_in|conv_out}", "{end}"),
        *norm("conv_norm_out", "conv_norm_out"),
        *_unet_blocks("{side:down|up}_blocks.{level}", "{side}_blocks_{level}", config),
        *_unet_blocks("mid_block", "mid_block", config),
        *conv(f"{sampler}.0.conv", "{side}_blocks_{level}/{what}_0/conv"),
    )
    # There are no rules for reward modules that the network lacks: their tensors are an error, not ignored.
    if config.reward is not None:
        rules += _RELEASED if config.reward.layout == "released" else _PAPER
    return WeightTable(rules)


def _unet_blocks(torch: str, path: str, config: UNetConfig) -> tuple[Rule, ...]:
    """The rules of the residual blocks and transformers of a down, mid or up block."""
    resnet, resnet_path = f"{torch}.resnets.{{i}}", f"{path}/resnets_{{i}}"
    attend, attend_path = f"{torch}.attentions.{{i}}", f"{path}/attentions_{{i}}"
    inner, inner_path = f"{attend}.transformer_blocks.0", f"{attend_path}/transformer_blocks_0"
    # The projections around a transformer are 1×1 convolutions in SD 1.x files, linear layers in SD 2.x files.
    projection = LINEAR if config.use_linear_projection else POINTWISE
    return (
        *norm(f"{resnet}.norm{{n:1|2}}", f"{resnet_path}/norm{{n}}"),
        *conv(f"{resnet}.{{conv:conv1|conv2|conv_shortcut}}", f"{resnet_path}/{{conv}}"),
        *linear(f"{resnet}.time_emb_proj", f"{resnet_path}/time_emb_proj"),
        *norm(f"{attend}.norm", f"{attend_path}/norm"),
        *linear(f"{attend}.{{end:proj_in|proj_out}}", f"{attend_path}/{{end}}", transform=projection),
        *norm(f"{inner}.norm{{n:1|2|3}}", f"{inner_path}/norm{{n}}"),
        *linear(f"{inner}.attn{{n:1|2}}.{{to:to_q|to_k|to_v}}", f"{inner_path}/attn{{n}}/{{to}}"),
        # Element 1 of to_out is dropout, which has no parameters, and so is element 1 of the feed-forward's net.
        *linear(f"{inner}.attn{{n:1|2}}.to_out.0", f"{inner_path}/attn{{n}}/to_out"),
        *linear(f"{inner}.ff.net.0.proj", f"{inner_path}/ff/net_0/proj"),
        *linear(f"{inner}.ff.net.2", f"{inner_path}/ff/net_2"),
    )


# Names of the published Reward-InsPix2Pix checkpoint.
_RELEASED = (
    *linear("add_embedding.{layer:linear_1|linear_2}", "reward_addition/add_embedding/{layer}"),
    *linear("text_linear2", "reward_addition/text_linear2"),
    *linear("add_embedding2.{layer:linear_1|linear_2}", "reward_attention/add_embedding2/{layer}"),
    *linear("text_linear", "reward_attention/text_linear"),
    *norm("proj_deal.norm", "reward_attention/proj_deal_norm"),
    *linear("proj_deal.{end:proj_in|proj_out}", "reward_attention/proj_deal_{end}", transform=POINTWISE),
    *linear("ca.attention.self.{to:query|key|value}", "reward_attention/ca/attention_self_{to}"),
    *linear("ca.attention.output.dense", "reward_attention/ca/attention_output_dense"),
    *norm("ca.attention.output.LayerNorm", "reward_attention/ca/attention_output_LayerNorm"),
    *linear("ca.{part:hidden_intermediate|output}.dense", "reward_attention/ca/{part}_dense"),
    *norm("ca.output.LayerNorm", "reward_attention/ca/output_LayerNorm"),
)
# No weights of this layout are published; the names are ours.
_PAPER = (
    *linear("reward_condition.score_embedding.{layer:linear_1|linear_2}", "reward_condition/score_embedding/{layer}"),
    Rule("reward_condition.{kind:score|text}_type", "reward_condition/{kind}_type", COPY),
    *norm("reward_attention.{norm:norm1|norm2}", "reward_attention/{norm}"),
    *linear("reward_attention.{layer:linear1|to_q|to_k|to_v|to_out|fc1|fc2}", "reward_attention/{layer}"),
    *linear("reward_addition.{block:down_[0-9]+|mid|up_[0-9]+}.linear2", "reward_addition_{block}/linear2"),
)


def widen_conv_in(params: Params, channels: int) -> Params:
    """The parameters with a `conv_in` that reads `channels` channels. Added channels come last and have zero weights.

    InstructPix2Pix starts from Stable Diffusion in this way: at first, the condition latents have no effect.
    """
    if "conv_in" not in params:  # only a part of the tree was read
        return params
    kernel = params["conv_in"]["kernel"]  # [3, 3, in, out]
    if (more := channels - kernel.shape[2]) < 0:
        raise ValueError(f"conv_in reads {kernel.shape[2]} channels: cannot reduce them to {channels}")
    wide = jnp.pad(kernel, ((0, 0), (0, 0), (0, more), (0, 0))) if more else kernel
    return {**params, "conv_in": {**params["conv_in"], "kernel": wide}}
