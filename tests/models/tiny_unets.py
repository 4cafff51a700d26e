"""Tiny U-Nets and inputs that the U-Net's tests share."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from tiny_models import draw

from rewardedit_jax.models.reward_condition import RewardConditionConfig
from rewardedit_jax.models.unet import UNet, UNetConfig
from rewardedit_jax.params import abstract_params

TEXT_WIDTH = 12
SD1 = UNetConfig(
    in_channels=8,
    block_out_channels=(8, 16),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=TEXT_WIDTH,
    attention_head_dim=2,
    norm_num_groups=4,
    sample_size=8,
)
ONE_LEVEL = replace(
    SD1, block_out_channels=(8,), down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",)
)
SD2 = replace(
    SD1,
    in_channels=4,
    block_out_channels=(8, 16, 16),
    layers_per_block=2,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    attention_head_dim=(1, 4, 2),
    use_linear_projection=True,
)


def with_reward(config=SD1, **reward):
    return replace(config, reward=RewardConditionConfig(**{"heads": 2, "score_channels": 16, **reward}))


def abstract(config, **types):
    return abstract_params(UNet(config, **types))


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def random_params(config, seed=0):
    return jax.tree.map(jnp.asarray, draw(UNet(config), seed))


def without_reward(params):
    return {name: tree for name, tree in params.items() if not name.startswith("reward_")}


def normal(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def inputs(config, h=8, w=4, batch=3):
    """(sample, timestep, context): unequal sides, one fractional timestep."""
    sample = normal(batch, h, w, config.in_channels)
    return sample, jnp.linspace(3.0, 950.5, batch), normal(batch, 5, config.cross_attention_dim, seed=2)


def reward_inputs(config, batch=3):
    """What the reward modules of a configuration read, as keyword arguments."""
    given = {}
    if "scores" in config.reward.sources:
        given["reward_scores"] = jnp.asarray([[5.0, 3.0, 0.0], [1.0, 4.5, 2.0], [2.0, 0.0, 5.0]])[:batch]
    if "text" in config.reward.sources:
        tokens = () if config.reward.layout == "released" else (7,)
        given["reward_text"] = normal(batch, *tokens, config.cross_attention_dim, seed=3)
    return given


def call(config, params, *args, **given):
    """Primitive by primitive: fast, as configurations share what is compiled, and with the rounding of the formula."""
    return UNet(config).apply({"params": params}, *args, **given)
