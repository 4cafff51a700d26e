"""The editor that a training run starts from.

In order, for each component: what `config.network` describes starts from scratch; everything else is read from the
pipeline `config.init`. Then the U-Net is brought to what the recipe trains: Stable Diffusion's 4-channel input is
widened for the condition latents, reward modules are added where it has none.
"""

from dataclasses import replace
from pathlib import Path

import flax.linen as nn
import jax
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray
from ml_collections import ConfigDict

from rewardedit_jax.data.tokenize import CLIPTokenizer, load_tokenizer
from rewardedit_jax.diffusion.process import NoiseProcess, process_from_config
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.editing.networks import COMPONENTS, Networks
from rewardedit_jax.models.reward_condition import RewardConditionConfig
from rewardedit_jax.models.unet import UNet
from rewardedit_jax.params import Params, random_params
from rewardedit_jax.weights.files import read_json
from rewardedit_jax.weights.hub import find_model
from rewardedit_jax.weights.pretrained import CLIP_TEXT, UNET, VAE, load_pretrained
from rewardedit_jax.weights.unet import widen_conv_in

KINDS = {"unet": UNET, "vae": VAE, "text_encoder": CLIP_TEXT}


def starting_editor(config: ConfigDict) -> Editor:
    """The editor of a recipe, parameters in host memory except those drawn from `config.seed`."""
    directory = find_model(config.init, _components_read(config)) if config.init else None
    rng = jax.random.key(config.seed)
    told = config.network.tokenizer
    tokenizer = load_tokenizer((find_model(told, COMPONENTS) if told else directory) / "tokenizer")
    schedule = _schedule(directory, config)
    parts = {}
    for i, name in enumerate(COMPONENTS):
        if config.network[name]:
            parts[name] = _from_scratch(name, config, tokenizer, jax.random.fold_in(rng, i))
        else:
            parts[name] = load_pretrained(directory / name, _compute_dtype(name, config))
    parts["unet"] = _adapted_unet(*parts["unet"], parts["vae"][0], config, jax.random.fold_in(rng, len(parts)))
    return Editor(
        networks=Networks(**{name: module for name, (module, _) in parts.items()}),
        params={name: params for name, (_, params) in parts.items()},
        tokenizer=tokenizer,
        schedule=schedule,
    )


def _components_read(config: ConfigDict) -> list[str]:
    return [name for name in COMPONENTS if not config.network[name]]


def _compute_dtype(name: str, config: ConfigDict) -> DTypeLike:
    """The VAE stays in float32, where half precision shows in the pictures."""
    return "float32" if name == "vae" else config.compute.dtype


def _from_scratch(
    name: str, config: ConfigDict, tokenizer: CLIPTokenizer, rng: PRNGKeyArray
) -> tuple[nn.Module, Params]:
    described = config.network[name].to_dict()
    if name == "text_encoder":
        described |= _vocabulary(tokenizer)
    kind = KINDS[name]
    module = kind.module(kind.config.from_hf(described), dtype=_compute_dtype(name, config))
    return module, random_params(module, rng)


def _vocabulary(tokenizer: CLIPTokenizer) -> dict[str, int]:
    return {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _adapted_unet(
    module: UNet, params: Params, vae: nn.Module, config: ConfigDict, rng: PRNGKeyArray
) -> tuple[UNet, Params]:
    """The U-Net with condition latents beside the noisy ones, and with reward modules if the recipe names a layout."""
    network = module.config
    both = 2 * vae.config.latent_channels
    if network.in_channels != both:
        params, network = widen_conv_in(params, both), replace(network, in_channels=both)
    if config.reward.layout and network.reward is None:
        network = replace(network, reward=reward_condition(config.reward))
    module = module.clone(config=network, remat=config.compute.remat)
    return module, random_params(module, rng, params)


def reward_condition(reward: ConfigDict) -> RewardConditionConfig:
    """The recipe's reward modules: its layout, what they read and where they act."""
    return RewardConditionConfig(
        layout=reward.layout,
        sources=tuple(reward.sources),
        paths=tuple(reward.paths),
        perspectives=tuple(reward.perspectives),
    )


def _schedule(directory: Path | None, config: ConfigDict) -> NoiseProcess:
    """The start model's noise schedule, with what the recipe sets differently; the recipe's own if it says it all."""
    read = {} if "beta_schedule" in config.schedule else read_json(directory / "scheduler" / "scheduler_config.json")
    return process_from_config({**read, **config.schedule})
