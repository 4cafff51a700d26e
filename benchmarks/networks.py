"""Editors with random weights, in the sizes that the benchmarks measure."""

import math
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rewardedit_jax.bases.base import Precomputed
from rewardedit_jax.bases.instruct_pix2pix import InstructPix2Pix, Moments, RequestStates, RewardStates
from rewardedit_jax.data.clip_tokenizer import CLIPTokenizer, load_clip_tokenizer
from rewardedit_jax.diffusion.process import process_from_config
from rewardedit_jax.models.clip import CLIPTextConfig, CLIPTextModel
from rewardedit_jax.models.remat import Remat
from rewardedit_jax.models.reward_condition import RewardConditionConfig
from rewardedit_jax.models.unet import UNet, UNetConfig
from rewardedit_jax.models.vae import AutoencoderConfig, AutoencoderKL
from rewardedit_jax.params import Params, abstract_params

ROOT = Path(__file__).parents[1]
RELEASED = RewardConditionConfig()  # of the published weights
TOKENS = 77  # CLIP's length of texts
_STABLE_DIFFUSION = UNetConfig(in_channels=8, cross_attention_dim=768, sample_size=64)
_SD_VAE = AutoencoderConfig(block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512)


class Size(NamedTuple):
    unet: UNetConfig
    vae: AutoencoderConfig
    text_layers: int


def _fewer_levels(channels: tuple[int, ...], context: int, groups: int) -> UNetConfig:
    """Stable Diffusion's U-Net with the first levels only, all with attention."""
    types = {f"{side}_block_types": (f"CrossAttn{side.title()}Block2D",) * len(channels) for side in ("down", "up")}
    sizes = {"block_out_channels": channels, "cross_attention_dim": context, "norm_num_groups": groups}
    return UNetConfig(in_channels=8, sample_size=32, **sizes, **types)


SIZES = {
    "tiny": Size(_fewer_levels((32, 64), 64, 8), AutoencoderConfig(block_out_channels=(16, 16), norm_num_groups=8), 1),
    "small": Size(_fewer_levels((320, 640), 768, 32), AutoencoderConfig(block_out_channels=(32, 64, 128, 128)), 2),
    "full": Size(_STABLE_DIFFUSION, _SD_VAE, 12),
}


def make_base(
    size: str, dtype: Any, *, remat: Remat = "none", reward: RewardConditionConfig | None = RELEASED
) -> InstructPix2Pix:
    """Reward-InsPix2Pix: "full" is Stable Diffusion 1.5 with 8 input channels and the published reward modules."""
    unet, vae, layers = SIZES[size]
    width = unet.cross_attention_dim
    text = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64 or 1}
    unet = UNetConfig(**{**vars(unet), "reward": reward})
    return InstructPix2Pix(
        unet=UNet(unet, dtype=dtype, remat=remat),
        vae=AutoencoderKL(vae),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text, num_hidden_layers=layers, projection_dim=width), dtype=dtype),
        process=process_from_config({"beta_schedule": "scaled_linear"}),
        tokenizer=tokenizer(),
    )


def tokenizer() -> CLIPTokenizer:
    """A small vocabulary, whose ids every text encoder here has, with CLIP's length."""
    # Read from the shipped model: `rewardedit_jax.shapes` has it too, but needs tensorflow_datasets.
    found = copy(load_clip_tokenizer(ROOT / "rewardedit_jax" / "pretrained" / "shapes" / "tokenizer"))
    found.model_max_length = TOKENS
    return found


def draw(abstract: Params) -> Params:
    """Random parameters of about unit gain, on the device.

    A million numbers are drawn and repeated: billions would take minutes. On a GPU, drawing on the device would compile
    a program for each shape.
    """
    pool = np.random.default_rng(0).standard_normal(2**20 + 7, np.float32)

    def one(leaf: Any) -> jax.Array:
        scale = 0.1 if len(leaf.shape) < 2 else math.prod(leaf.shape[:-1]) ** -0.5
        return jax.device_put(np.resize((scale * pool).astype(leaf.dtype), leaf.shape))

    return jax.tree.map(one, abstract)


def draw_editor(base: InstructPix2Pix) -> Params:
    return {name: draw(abstract_params(getattr(base, name))) for name in base.components}


def cached_examples(base: InstructPix2Pix, batch: int, side: int) -> Precomputed:
    """Random training examples as a cache gives them, with latents of `side` × `side`."""
    rng, width = np.random.default_rng(0), base.unet.config.cross_attention_dim

    def normal(*shape: int) -> jax.Array:
        return jax.device_put(rng.standard_normal(shape, np.float32))

    grid = batch, side, side, base.vae.config.latent_channels
    reward = RewardStates(
        jax.device_put(rng.uniform(0, 5, (batch, 3)).astype(np.float32)),
        normal(batch, width),
        np.ones(batch, np.float32),
    )
    moments = Moments(normal(*grid), 0.1 * abs(normal(*grid)))
    return Precomputed(
        moments, normal(*grid), RequestStates(normal(batch, TOKENS, width), reward), normal(TOKENS, width)
    )
