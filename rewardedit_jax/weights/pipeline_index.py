"""model_index.json of a pipeline directory: which class of which library reads each folder."""

from collections.abc import Mapping
from typing import Any

STABLE_DIFFUSION = {
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
# Networks that other libraries do not have are named by their modules here.
SMARTEDIT = {
    **STABLE_DIFFUSION,
    "vision_encoder": ["transformers", "CLIPVisionModel"],
    "language_model": ["rewardedit_jax", "Llava"],
    "language_tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "qformer": ["rewardedit_jax", "QFormer"],
    "interaction": ["rewardedit_jax", "Interaction"],
}
SMARTEDIT_PIPELINE = "SmartEditPipeline"


def model_index(pipeline: str, folders: Mapping[str, list[str]], scheduler: str) -> dict[str, Any]:
    """The content of model_index.json.

    Args:
      pipeline: its class in diffusers, or a name that is no class of diffusers.
      folders: folder → [library, class], without the scheduler.
      scheduler: the class of its noise schedule, as scheduler_config.json has it.
    """
    nothing = [None, None]
    return {
        "_class_name": pipeline,
        "_diffusers_version": "0.36.0",
        "feature_extractor": nothing,
        "image_encoder": nothing,
        "requires_safety_checker": False,
        "safety_checker": nothing,
        "scheduler": ["diffusers", scheduler],
        **folders,
    }
