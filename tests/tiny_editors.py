"""Editors small enough to build, edit and train with in every test: pictures of 16 px, random weights of unit gain."""

import jax
import numpy as np
from tiny_models import draw_all

from rewardedit_jax.bases.instruct_pix2pix import InstructPix2Pix
from rewardedit_jax.data.clip_tokenizer import warn_cut
from rewardedit_jax.data.pipeline import EditBatch
from rewardedit_jax.diffusion.process import process_from_config
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.models.clip import CLIPTextConfig, CLIPTextModel
from rewardedit_jax.models.reward_condition import RewardConditionConfig
from rewardedit_jax.models.unet import UNet, UNetConfig
from rewardedit_jax.models.vae import AutoencoderConfig, AutoencoderKL
from rewardedit_jax.reward import Reward
from rewardedit_jax.shapes.tokenizers import shapes_tokenizer

SIDE, GRID = 16, 8  # of pictures and latents
WIDTH = 16  # of the text encoder
SCHEDULE = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def tiny_editor(*, prediction="epsilon", **reward):
    """`reward`: settings of RewardConditionConfig; none at all is a plain editor."""
    base = tiny_base(prediction, **reward)
    return Editor(base, jax.device_put(draw_all(base)))


def tiny_base(prediction="epsilon", **reward):
    tokenizer = shapes_tokenizer()
    condition = RewardConditionConfig(**{"heads": 2, "score_channels": 16, **reward}) if reward else None
    unet = UNetConfig(
        sample_size=GRID,
        in_channels=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=WIDTH,
        norm_num_groups=4,
        reward=condition,
    )
    vae = AutoencoderConfig(
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=SIDE,
    )
    text = CLIPTextConfig(
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    process = process_from_config({**SCHEDULE, "prediction_type": prediction})
    return InstructPix2Pix(UNet(unet), AutoencoderKL(vae), CLIPTextModel(text), process, tokenizer)


def picture(seed=0, height=SIDE, width=SIDE):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def latents(n=1, seed=1, height=GRID, width=GRID):
    return np.random.default_rng(seed).standard_normal((n, height, width, 4), np.float32)


def train_batch(editor, n=4):
    """A judged batch, as the pipeline makes it."""
    pictures = np.stack([picture(i) for i in range(2 * n)])
    instructions = [f"make the {colour} circle blue" for colour in ("red", "green", "yellow", "white")]
    scores = np.linspace(0, 5, 3 * n, dtype=np.float32).reshape(n, 3)
    return EditBatch(
        source=pictures[:n],
        edited=pictures[n:],
        inputs=editor.base.read(list(pictures[:n]), (instructions * n)[:n], [Reward(*row) for row in scores], warn_cut),
    )
