"""The kinds of networks: config, module, weight table and the settings of config.json; which kind a directory holds."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
from msgspec import Meta, Struct

from rewardedit_jax.models.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel
from rewardedit_jax.models.clip_vision import CLIPVisionConfig, CLIPVisionModel
from rewardedit_jax.models.decoder import DecoderConfig
from rewardedit_jax.models.edit_reward import EditReward, EditRewardConfig
from rewardedit_jax.models.interaction import Interaction, InteractionConfig
from rewardedit_jax.models.llava import Llava, LlavaConfig
from rewardedit_jax.models.lora import LoRA
from rewardedit_jax.models.qformer import QFormer, QFormerConfig
from rewardedit_jax.models.qwen_vision import QwenVisionConfig
from rewardedit_jax.models.reward_condition import RewardConditionConfig
from rewardedit_jax.models.unet import SINGLE_VALUED, UNet, UNetConfig
from rewardedit_jax.models.vae import AutoencoderConfig, AutoencoderKL
from rewardedit_jax.models.vit import Dinov2Config, Dinov2Model, ViTConfig, ViTModel
from rewardedit_jax.weights.clip import clip_table, text_table, vision_table
from rewardedit_jax.weights.engine import WeightTable
from rewardedit_jax.weights.files import STEMS, WeightFileError, read_json
from rewardedit_jax.weights.qwen2_5_vl import edit_reward_table
from rewardedit_jax.weights.settings import settings_type
from rewardedit_jax.weights.smartedit import interaction_table, llava_table, qformer_table
from rewardedit_jax.weights.stable_diffusion import unet_table, vae_table
from rewardedit_jax.weights.vit import dinov2_table, vit_table


class NetworkKind(NamedTuple):
    """What is needed to read and write one kind of network."""

    config: type
    module: type[nn.Module]
    table: Callable[[Any], WeightTable]
    stem: str  # of its weight file
    settings: type[Struct]  # types of config.json
    # Published config.json files mention neither reward modules nor reward heads; their tensors' names and shapes do.
    infers_from_shapes: bool = False

    def make(
        self, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None = None, **types: Any
    ) -> nn.Module:
        """The network that a config.json describes. ValueError: a setting that is not supported.

        Args:
          shapes: of the tensors of its files; None: the config.json tells all.
          types: dtype and param_dtype of the module.
        """
        known = [shapes] if self.infers_from_shapes and shapes is not None else []
        lora = LoRA.from_hf(config["lora"]) if config.get("lora") else None
        own = {name: value for name, value in config.items() if name != "lora"}
        return self.module(self.config.from_hf(own, *known), lora=lora, **types)


class _LoRA(Struct):
    """The settings of LoRA that is kept beside the weights, which transformers and diffusers ignore."""

    rank: Annotated[int, Meta(ge=1)]
    alpha: Annotated[float, Meta(gt=0)]
    targets: Annotated[list[str], Meta(min_length=1)]
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0


class _Identity(Struct, rename={"class_name": "_class_name"}):
    """What a config.json says about the kind of its network, and what that of every kind may contain."""

    class_name: str | None = None
    architectures: list[str] | None = None
    model_type: str | None = None
    quantization_config: dict[str, Any] | None = None
    lora: _LoRA | None = None


class _Rope(Struct):
    """Settings of rotary embedding in a transformers config.json."""

    rope_theta: Annotated[float, Meta(gt=0)] | None = None
    mrope_section: tuple[int, int, int] | None = None
    rope_type: str | None = None
    type: str | None = None


class _RewardModel(Struct):
    """The settings of a scorer, which transformers ignores."""

    kind: str | None = None
    aggregation: str | None = None
    positions: str | None = None
    system: str | None = None
    area: Annotated[int, Meta(ge=1)] | None = None


_DIFFUSERS, _TRANSFORMERS = STEMS
_UNET_SETTINGS = settings_type(UNetConfig, lists=SINGLE_VALUED, reward_condition=settings_type(RewardConditionConfig))
_VAE_BLOCKS = dict.fromkeys(["down_block_types", "up_block_types"], list[str])
_VAE_SETTINGS = settings_type(AutoencoderConfig, lists=["sample_size"], **_VAE_BLOCKS)
_nullable = partial(settings_type, nullable=True)  # transformers writes null for what has its default
_TEXT_SETTINGS = _nullable(CLIPTextConfig, text_config=_nullable(CLIPTextConfig))
_VISION_SETTINGS = _nullable(CLIPVisionConfig, vision_config=_nullable(CLIPVisionConfig))
_CLIP_SETTINGS = _nullable(
    CLIPConfig,
    text_config=_nullable(CLIPTextConfig),
    vision_config=_nullable(CLIPVisionConfig),
    projection_dim=Annotated[int, Meta(ge=1)],
)
_ROPE = {"rope_scaling": _Rope, "rope_parameters": _Rope}
_EDIT_REWARD_SETTINGS = _nullable(
    DecoderConfig,
    **_ROPE,
    text_config=_nullable(DecoderConfig, **_ROPE),
    vision_config=_nullable(QwenVisionConfig),
    image_token_id=Annotated[int, Meta(ge=0)],
    reward_model=_RewardModel,
)
_LLAVA_SETTINGS = _nullable(
    DecoderConfig, **_ROPE, mm_hidden_size=Annotated[int, Meta(ge=1)], mm_vision_select_layer=int
)
UNET = NetworkKind(UNetConfig, UNet, unet_table, _DIFFUSERS, _UNET_SETTINGS, infers_from_shapes=True)
VAE = NetworkKind(AutoencoderConfig, AutoencoderKL, vae_table, _DIFFUSERS, _VAE_SETTINGS)
CLIP_TEXT = NetworkKind(CLIPTextConfig, CLIPTextModel, text_table, _TRANSFORMERS, _TEXT_SETTINGS)
CLIP_VISION = NetworkKind(CLIPVisionConfig, CLIPVisionModel, vision_table, _TRANSFORMERS, _VISION_SETTINGS)
CLIP = NetworkKind(CLIPConfig, CLIPModel, clip_table, _TRANSFORMERS, _CLIP_SETTINGS)
VIT = NetworkKind(ViTConfig, ViTModel, vit_table, _TRANSFORMERS, _nullable(ViTConfig))
DINOV2 = NetworkKind(Dinov2Config, Dinov2Model, dinov2_table, _TRANSFORMERS, _nullable(Dinov2Config))
EDIT_REWARD = NetworkKind(
    EditRewardConfig, EditReward, edit_reward_table, _TRANSFORMERS, _EDIT_REWARD_SETTINGS, infers_from_shapes=True
)
LLAVA = NetworkKind(LlavaConfig, Llava, llava_table, _TRANSFORMERS, _LLAVA_SETTINGS)
QFORMER = NetworkKind(QFormerConfig, QFormer, qformer_table, _TRANSFORMERS, _nullable(QFormerConfig))
INTERACTION = NetworkKind(
    InteractionConfig, Interaction, interaction_table, _TRANSFORMERS, _nullable(InteractionConfig)
)

# The kind of network that a config.json describes: by diffusers' `_class_name`, else by transformers' `architectures`,
# else by `model_type`.
KINDS = {
    "UNet2DConditionModel": UNET,
    "AutoencoderKL": VAE,
    "CLIPTextModel": CLIP_TEXT,
    "CLIPTextModelWithProjection": CLIP_TEXT,
    "CLIPVisionModel": CLIP_VISION,
    "CLIPVisionModelWithProjection": CLIP_VISION,
    "CLIPModel": CLIP,
    "ViTModel": VIT,
    "Dinov2Model": DINOV2,
    "Qwen2_5_VLForConditionalGeneration": EDIT_REWARD,
    # `architectures` of reward models names classes that transformers does not have, or is missing.
    "qwen2_5_vl": EDIT_REWARD,
    "LlavaLlamaForCausalLM": LLAVA,
    "llava": LLAVA,
    # Networks of SmartEdit that no published config.json describes.
    "SmartEditQFormer": QFORMER,
    "SmartEditInteraction": INTERACTION,
}


def read_config(directory: Path) -> tuple[NetworkKind, dict[str, Any]]:
    """The kind of network in a component directory, and its config.json, whose types and ranges are checked."""
    if not directory.is_dir():
        raise WeightFileError(f"there is no directory {directory}.")
    if (directory / "model_index.json").is_file():
        parts = ", ".join(sorted(p.parent.name for p in directory.glob("*/config.json")))
        raise WeightFileError(
            f"{directory} is a whole pipeline: load it with Editor.load, or one of its networks: {parts}."
        )
    file = directory / "config.json"
    kind = _kind_of(read_json(file, _Identity), file)
    read_json(file, kind.settings)  # raises for values of other types
    config = read_json(file)
    return kind, _without_null(config) if kind.stem == _TRANSFORMERS else config


def _kind_of(identity: _Identity, file: Path) -> NetworkKind:
    names = [identity.class_name, *(identity.architectures or []), identity.model_type]
    kind = next((KINDS[name] for name in names if name in KINDS), None)
    if kind is None:
        name = next(filter(None, names), "nothing")
        raise WeightFileError(f"{file} describes {name}; known networks: {', '.join(KINDS)}.")
    if identity.quantization_config:
        method = identity.quantization_config.get("quant_method", "an unnamed method")
        raise WeightFileError(
            f"{file} describes weights quantised by {method}, which is not supported: expected those in full or half "
            "precision."
        )
    return kind


def _without_null(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that are not null, in sections too."""
    kept = {name: value for name, value in config.items() if value is not None}
    return {name: _without_null(value) if isinstance(value, dict) else value for name, value in kept.items()}
