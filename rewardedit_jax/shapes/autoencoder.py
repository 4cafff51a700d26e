"""The autoencoder task: trains the small VAE that gives the shapes world its latents.

Published editors come with Stable Diffusion's VAE; this is for worlds that have none.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from rewardedit_jax.data.images import to_unit
from rewardedit_jax.data.pipeline import EditBatch
from rewardedit_jax.editing.task import recipe_batches
from rewardedit_jax.models.vae import PARTITION_RULES, AutoencoderConfig, AutoencoderKL
from rewardedit_jax.params import Params, random_params
from rewardedit_jax.shapes.builder import ShapesSource, prepare_shapes
from rewardedit_jax.shapes.tokenizers import shapes_tokenizer
from rewardedit_jax.training.task import Evaluator
from rewardedit_jax.weights.files import write_json
from rewardedit_jax.weights.pretrained import save_pretrained

# Enough pictures to measure the spread of the latents.
_SCALING_BATCHES = 32


class AutoencoderTask:
    """Squared error of both pictures of a pair plus a small KL term. A `training.task.Task`."""

    partition_rules = PARTITION_RULES
    trainable = ((".*", True),)

    def __init__(self, config: ConfigDict):
        self.config = config
        self.vae = AutoencoderKL(AutoencoderConfig.from_hf(config.network.vae.to_dict()))
        data = config.data
        self.source = ShapesSource(prepare_shapes(data.root, train=data.train, test=data.test), "train")

    def init(self, rng: Key[Array, ""]) -> Params:
        return random_params(self.vae, rng)

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
        return recipe_batches(self.config, self.source, shapes_tokenizer(), (), start)

    def evaluators(self) -> Mapping[str, Evaluator]:
        return {}

    def export(self, params: Params, directory: Path) -> None:
        """A pipeline directory with a VAE only, its scaling factor set so that latents have unit variance."""
        scaling_factor = 1 / float(jnp.std(self._latents(params)))
        vae = self.vae.clone(config=replace(self.vae.config, scaling_factor=scaling_factor))
        save_pretrained(vae, params, directory / "vae")
        write_json(
            {"_class_name": "DiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]},
            directory / "model_index.json",
        )

    def _latents(self, params: Params) -> Float[Array, "n h w c"]:
        """Latents of the edited pictures of some batches."""
        encode = jax.jit(lambda p, x: self.vae.apply({"params": p}, to_unit(x), method="encode").mean)
        batches = itertools.islice(self.batches(0), _SCALING_BATCHES)
        return jnp.concatenate([encode(params, batch.edited) for batch in batches])
