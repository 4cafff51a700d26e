"""Weight table of the U-Net: diffusers' `UNet2DConditionModel` and the published reward modules ⇄ `models.unet`."""

import jax.numpy as jnp

from rewardedit_jax.models.unet import UNetConfig
from rewardedit_jax.params import Params
from rewardedit_jax.weights.engine import COPY, LINEAR, POINTWISE, Rule, WeightTable, conv, linear, norm


def unet_table(config: UNetConfig) -> WeightTable:
    """The rules of a U-Net, with those of its reward modules if it has any."""
    rules = (
        *linear("time_embedding.{layer:linear_1|linear_2}", "time_embedding/{layer}"),
        *conv("{end:conv_in|conv_out}", "{end}"),
        *norm("conv_norm_out", "conv_norm_out"),
        *_level("{side:down|up}_blocks.{level}", "{side}_blocks_{level}", config),
        *_level("mid_block", "mid_block", config),
        *conv(
            "{side:down|up}_blocks.{level}.{what:downsamplers|upsamplers}.0.conv", "{side}_blocks_{level}/{what}_0/conv"
        ),
    )
    # No rules for reward modules that the network lacks: their tensors are an error, not ignored.
    if config.reward is None:
        return WeightTable(rules)
    return WeightTable(rules + (_RELEASED if config.reward.layout == "released" else _PAPER))


def _level(torch: str, path: str, config: UNetConfig) -> tuple[Rule, ...]:
    """The rules of the residual blocks and transformers of a down, mid or up block."""
    resnet, resnet_path = f"{torch}.resnets.{{i}}", f"{path}/resnets_{{i}}"
    attend, attend_path = f"{torch}.attentions.{{i}}", f"{path}/attentions_{{i}}"
    inner, inner_path = f"{attend}.transformer_blocks.0", f"{attend_path}/transformer_blocks_0"
    # The projections around a transformer are 1×1 convolutions in SD 1.x files, linear layers in SD 2.x files.
    projection = LINEAR if config.use_linear_projection else POINTWISE
    return (
        *norm(f"{resnet}.{{norm:norm1|norm2}}", f"{resnet_path}/{{norm}}"),
        *conv(f"{resnet}.{{conv:conv1|conv2|conv_shortcut}}", f"{resnet_path}/{{conv}}"),
        *linear(f"{resnet}.time_emb_proj", f"{resnet_path}/time_emb_proj"),
        *norm(f"{attend}.norm", f"{attend_path}/norm"),
        *linear(f"{attend}.{{end:proj_in|proj_out}}", f"{attend_path}/{{end}}", transform=projection),
        *norm(f"{inner}.{{norm:norm1|norm2|norm3}}", f"{inner_path}/{{norm}}"),
        *linear(f"{inner}.{{attn:attn1|attn2}}.{{to:to_q|to_k|to_v}}", f"{inner_path}/{{attn}}/{{to}}"),
        *linear(f"{inner}.{{attn:attn1|attn2}}.to_out.0", f"{inner_path}/{{attn}}/to_out"),
        # net.1 is dropout, which has no parameters.
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
    *linear("ca.hidden_intermediate.dense", "reward_attention/ca/hidden_intermediate_dense"),
    *linear("ca.output.dense", "reward_attention/ca/output_dense"),
    *norm("ca.output.LayerNorm", "reward_attention/ca/output_LayerNorm"),
)
# No weights of this layout are published; the names are ours.
_PAPER = (
    *linear("reward_condition.score_embedding.{layer:linear_1|linear_2}", "reward_condition/score_embedding/{layer}"),
    Rule("reward_condition.{kind:score|text}_type", "reward_condition/{kind}_type", COPY),
    *norm("reward_attention.{norm:norm1|norm2}", "reward_attention/{norm}"),
    *linear(
        "reward_attention.{layer:linear1|to_q|to_k|to_v|to_out|fc1|fc2}",
        "reward_attention/{layer}",
    ),
    *linear("reward_addition.{block:down_[0-9]+|mid|up_[0-9]+}.linear2", "reward_addition_{block}/linear2"),
)


def widen_conv_in(params: Params, channels: int) -> Params:
    """The parameters with a `conv_in` that reads `channels` channels. Added channels come last and have zero weights.

    InstructPix2Pix starts from Stable Diffusion in this way: at first, the condition latents have no effect.
    """
    if "conv_in" not in params:  # a part of the tree, read for the rest of it
        return params
    kernel = params["conv_in"]["kernel"]  # [3, 3, in, out]
    more = channels - kernel.shape[2]
    if more == 0:
        return params
    if more < 0:
        raise ValueError(f"conv_in reads {kernel.shape[2]} channels: cannot reduce them to {channels}")
    wide = jnp.pad(kernel, ((0, 0), (0, 0), (0, more), (0, 0)))
    return {**params, "conv_in": {**params["conv_in"], "kernel": wide}}
