"""Tiny networks on random weights, and an editor of them for the shapes world."""

import runpy
from dataclasses import replace

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from paths import ROOT

from rewardedit_jax.bases.instruct_pix2pix import InstructPix2Pix
from rewardedit_jax.diffusion.process import process_from_config
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.models.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel
from rewardedit_jax.models.clip_vision import CLIPVisionConfig, CLIPVisionModel
from rewardedit_jax.models.decoder import DecoderConfig
from rewardedit_jax.models.interaction import Interaction, InteractionConfig
from rewardedit_jax.models.llava import Llava, LlavaConfig
from rewardedit_jax.models.qformer import QFormer, QFormerConfig
from rewardedit_jax.models.reward_condition import RewardConditionConfig
from rewardedit_jax.models.unet import UNet, UNetConfig
from rewardedit_jax.models.vae import AutoencoderConfig, AutoencoderKL
from rewardedit_jax.models.vit import Dinov2Config, Dinov2Model, ViTConfig, ViTModel
from rewardedit_jax.params import abstract_params
from rewardedit_jax.shapes.tokenizers import shapes_tokenizer

TEXT_WIDTH = 12
TINY_LLAMA = DecoderConfig(
    vocab_size=29,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    rope_theta=10_000.0,
    qkv_bias=False,
    mrope_section=None,
)
_TINY_VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}


def get_config(recipe, variant=""):
    """The recipe configs/<recipe>.py."""
    return runpy.run_path(str(ROOT / "configs" / f"{recipe}.py"))["get_config"](variant)


def tiny_unet(in_channels=8, layout=None, **types):
    reward = RewardConditionConfig(layout=layout, heads=2, score_channels=16) if layout else None
    config = UNetConfig(
        in_channels=in_channels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
        sample_size=16,
        reward=reward,
    )
    return UNet(config, **types)


def tiny_vae():
    return AutoencoderKL(
        AutoencoderConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, sample_size=32)
    )


def tiny_text_encoder():
    tokenizer = shapes_tokenizer()
    config = CLIPTextConfig(
        hidden_size=TEXT_WIDTH,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPTextModel(config)


def tiny_vision():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=16, patch_size=8, projection_dim=6))


def tiny_clip():
    return CLIPModel(
        CLIPConfig(text=replace(tiny_text_encoder().config, projection_dim=6), vision=tiny_vision().config)
    )


def tiny_dino():
    return ViTModel(ViTConfig(**_TINY_VIT, intermediate_size=24, patch_size=16))


def tiny_dinov2():
    return Dinov2Model(Dinov2Config(**_TINY_VIT, patch_size=14))


def tiny_llava(**settings):
    """`settings`: types, LoRA and `remat`."""
    return Llava(LlavaConfig(text=TINY_LLAMA, mm_hidden_size=16), **settings)


def tiny_qformer(**settings):
    """`settings`: fields of its config."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 24}
    return QFormer(QFormerConfig(**sizes, encoder_hidden_size=16, num_queries=5, **settings))


def tiny_interaction(**settings):
    """`settings`: fields of its config."""
    sizes = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24, "context_size": 16}
    return Interaction(InteractionConfig(**{**sizes, "residual_size": 8, **settings}))


def draw(module, seed=0):
    """Parameters of unit gain, as NumPy arrays; biases and zero ends included, so that nothing is silent."""
    rng = np.random.default_rng(seed)

    def one(path, leaf):
        x = rng.standard_normal(leaf.shape, np.float32)
        if leaf.ndim == 1:
            x = 1 + 0.1 * x if path.endswith("scale") else 0.05 * x
        else:
            x /= np.sqrt(leaf.shape[-1] if path.endswith("embedding") else np.prod(leaf.shape[:-1]))
        return x.astype(leaf.dtype)

    flat = flatten_dict(abstract_params(module), sep="/")
    return unflatten_dict({path: one(path, leaf) for path, leaf in flat.items()}, sep="/")


def tiny_editor(in_channels=8, layout=None):
    """An editor of 32 px pictures with the shapes world's tokenizer."""
    schedule = {"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
    base = InstructPix2Pix(
        unet=tiny_unet(in_channels, layout),
        vae=tiny_vae(),
        text_encoder=tiny_text_encoder(),
        process=process_from_config({**schedule, "beta_schedule": "scaled_linear", "set_alpha_to_one": False}),
        tokenizer=shapes_tokenizer(),
    )
    return Editor(base, draw_all(base))


def draw_all(base):
    """Parameters of all components of a base, each with another seed."""
    return {name: draw(getattr(base, name), seed) for seed, name in enumerate(base.components)}


def assert_same(a, b):
    """Two trees have the same structure, types and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype, path
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=str(path))
