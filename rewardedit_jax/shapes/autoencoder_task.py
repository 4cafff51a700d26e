"""The task of the shapes world's autoencoder, on which its editors work. Published editors have Stable Diffusion's."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from rewardedit_jax.data.images import to_unit
from rewardedit_jax.data.order import recipe_order
from rewardedit_jax.data.pipeline import EditBatch, edit_batches
from rewardedit_jax.models.vae import PARTITION_RULES, AutoencoderConfig, AutoencoderKL
from rewardedit_jax.params import Params, abstract_params, random_params
from rewardedit_jax.shapes.examples import NAME, ShapesSource, prepare_shapes
from rewardedit_jax.training import recipe
from rewardedit_jax.training.recipe_check import check_network
from rewardedit_jax.training.task import Evaluator
from rewardedit_jax.weights.files import write_json
from rewardedit_jax.weights.pretrained import write_network
from rewardedit_jax.weights.saving import replace_model

_SCALING_BATCHES = 32  # enough pictures to measure the spread of the latents


class AutoencoderNetwork(recipe.Section):
    vae: dict[str, Any]  # fields of diffusers' AutoencoderKL

    def __post_init__(self):
        check_network(AutoencoderConfig, self.vae, "network.vae")


class AutoencoderData(recipe.Data, kw_only=True):
    name: Literal[NAME]
    train: recipe.Count
    test: recipe.Count
    resolution: recipe.Count
    flip: bool


class AutoencoderRecipe(recipe.TrainingRecipe, forbid_unknown_fields=True):
    """All settings of the autoencoder's training."""

    task: str
    network: AutoencoderNetwork
    kl_weight: recipe.NotNegative  # of the KL term, beside the squared error
    data: AutoencoderData

    def __post_init__(self):
        factor = AutoencoderConfig.from_hf(self.network.vae).spatial_factor
        if self.data.resolution % factor:
            raise ValueError(f"data.resolution={self.data.resolution}: expected a multiple of {factor}")


class ShapesAutoencoderTask:
    """Trains the VAE of the world's editors: squared error of both pictures of a pair plus a small KL term."""

    partition_rules = PARTITION_RULES
    trainable = ((".*", True),)
    schema: ClassVar[type[recipe.TrainingRecipe]] = AutoencoderRecipe

    def __init__(self, config: ConfigDict):
        recipe.check_recipe(config, self.schema)
        self.config = config
        self.vae = AutoencoderKL(AutoencoderConfig.from_hf(config.network.vae.to_dict()))
        self.source = ShapesSource(prepare_shapes(config.data.root, config.data.train, config.data.test), "train")

    def abstract_params(self) -> Params:
        return abstract_params(self.vae)

    def init(self, rng: Key[Array, ""], wanted: Callable[[str], bool] | None = None) -> Params:
        # A key of its own: the trainer folds the number of a step into the same one.
        return random_params(self.vae, jax.random.fold_in(rng, 2**32 - 1), wanted=wanted)

    def loss(
        self, params: Params, batch: EditBatch, rng: Key[Array, ""]
    ) -> tuple[Float[Array, " b"], Mapping[str, Float[Array, " b"]]]:
        images = to_unit(jnp.concatenate([batch.source, batch.edited]))
        posterior = self.vae.apply({"params": params}, images, method="encode")
        decoded = self.vae.apply({"params": params}, posterior.sample(rng), method="decode")
        error = jnp.mean((decoded - images) ** 2, axis=(1, 2, 3))
        kl = 0.5 * jnp.mean(posterior.mean**2 + jnp.exp(posterior.log_var) - 1 - posterior.log_var, axis=(1, 2, 3))
        # Pixels run from -1 to 1, so the peak of the signal-to-noise ratio is 2.
        psnr = 10 * jnp.log10(4 / error)
        return error + self.config.kl_weight * kl, {"psnr": psnr, "kl": kl}

    def batches(self, start: int) -> Iterator[EditBatch]:
        data = self.config.data
        return edit_batches(
            self.source,
            lambda sources, instructions, rewards: None,  # an autoencoder has no conditions
            resolution=data.resolution,
            flip=data.flip,
            skip_bad=data.skip_bad,
            **recipe_order(self.config, start),
        )

    def evaluators(self) -> Mapping[str, Evaluator]:
        return {}

    def export(self, params: Params, directory: Path) -> None:
        """Writes a pipeline directory with a VAE only. Its scaling factor gives the latents unit variance."""
        encode = jax.jit(lambda p, x: self.vae.apply({"params": p}, to_unit(x), method="encode").mean)
        batches = itertools.islice(self.batches(0), _SCALING_BATCHES)
        latents = jnp.concatenate([encode(params, batch.edited) for batch in batches])
        scaling_factor = 1 / float(jnp.std(latents))
        vae = self.vae.clone(config=replace(self.vae.config, scaling_factor=scaling_factor))
        index = {"_class_name": "DiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]}
        with replace_model(directory) as new:
            write_network(vae, params, new / "vae")
            write_json(index, new / "model_index.json")
