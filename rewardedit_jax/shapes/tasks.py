"""The tasks of the shapes world: an editor, a scorer and an autoencoder on its data, evaluated by its oracle."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from rewardedit_jax.data.clip_tokenizer import encode_texts
from rewardedit_jax.data.images import to_unit
from rewardedit_jax.data.order import recipe_order
from rewardedit_jax.data.pipeline import EditBatch, edit_batches
from rewardedit_jax.data.records import PreferenceSource, Source
from rewardedit_jax.editing.recipe import SOURCES, EditingData, EditingRecipe
from rewardedit_jax.editing.task import EditingTask
from rewardedit_jax.models.vae import PARTITION_RULES, AutoencoderConfig, AutoencoderKL
from rewardedit_jax.params import Params, abstract_params, random_params
from rewardedit_jax.reward import PERSPECTIVES, Reward, join_feedback
from rewardedit_jax.scoring.recipe import PREFERENCES, ScoringData, ScoringRecipe
from rewardedit_jax.scoring.task import ScoringTask
from rewardedit_jax.shapes.editor_benchmark import edit_scenes, held_out_scenes, score
from rewardedit_jax.shapes.examples import ShapesSource, prepare_shapes
from rewardedit_jax.shapes.picture_grid import Column, choose_rows, draw_grid
from rewardedit_jax.shapes.preferences import ShapesPreferences, prepare_shapes_preferences
from rewardedit_jax.shapes.scorer_benchmark import evaluate_scorer, held_out_groups, score_groups
from rewardedit_jax.shapes.words import words_loss
from rewardedit_jax.training import recipe
from rewardedit_jax.training.recipe_check import check_network
from rewardedit_jax.training.task import Evaluator
from rewardedit_jax.weights.files import write_json
from rewardedit_jax.weights.pretrained import write_network
from rewardedit_jax.weights.saving import replace_model

NAME = "shapes"  # as `config.data.name`
_SCALING_BATCHES = 32  # enough pictures to measure the spread of the latents


class ShapesEditingData(EditingData, kw_only=True):
    name: Literal[*SOURCES, NAME]
    train: recipe.Count
    test: recipe.Count


class ShapesEditingRecipe(EditingRecipe, kw_only=True):
    data: ShapesEditingData
    words_weight: recipe.NotNegative = 0.0  # of `words_loss`, beside the squared error


class ShapesScoringData(ScoringData, kw_only=True):
    name: Literal[*PREFERENCES, NAME]
    train: recipe.Count
    test: recipe.Count


class ShapesScoringRecipe(ScoringRecipe):
    data: ShapesScoringData


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


def _train_split(data: ConfigDict) -> ShapesSource:
    return ShapesSource(prepare_shapes(data.root, data.train, data.test), "train")


class ShapesEditingTask(EditingTask):
    """Trains an editor on imperfect edits of procedural scenes."""

    schema = ShapesEditingRecipe

    def open_source(self, data: ConfigDict) -> Source:
        """The train split of `data.train` and `data.test` examples, written under `data.root` on first use."""
        return _train_split(data) if data.name == NAME else super().open_source(data)

    def read(self, sources, instructions, rewards, *, report_cut) -> Any:
        inputs = super().read(sources, instructions, rewards, report_cut=report_cut)
        if not self._weight:
            return inputs
        # An editor without reward modules does not read the feedback, but its text encoder is to know the words.
        # Triplets of a user's own may have no feedback.
        texts = [*instructions, *(join_feedback(reward.texts) if reward else "" for reward in rewards)]
        return inputs, encode_texts(self.base.tokenizer, texts).ids.reshape(2, len(instructions), -1).swapaxes(0, 1)

    def loss(
        self, params: Params, batch: EditBatch, rng: Key[Array, ""]
    ) -> tuple[Float[Array, " b"], Mapping[str, Float[Array, " b"]]]:
        if not self._weight:
            return super().loss(params, batch, rng)
        inputs, texts = batch.inputs
        loss, metrics = super().loss(params, batch.replace(inputs=inputs), rng)
        words = words_loss(self.base.text_encoder, params["text_encoder"], texts.reshape(-1, texts.shape[-1]))
        words = words.reshape(texts.shape[:2]).mean(axis=1)
        return loss + self._weight * words, {**metrics, "edit": loss, "words": words}

    @property
    def _weight(self) -> float:
        return self.config.get("words_weight", 0.0)

    def evaluators(self) -> Mapping[str, Evaluator]:
        # The oracle needs the ideal edit, which only scenes of its own world have.
        return {NAME: shapes_evaluator(self, self.config)} if self.config.data.name == NAME else super().evaluators()


class ShapesScoringTask(ScoringTask):
    """Trains a scorer on rated edits of procedural scenes."""

    schema = ShapesScoringRecipe

    def open_source(self, data: ConfigDict) -> PreferenceSource:
        """All pairs of `data.train` groups of four edits, written under `data.root` on first use."""
        if data.name != NAME:
            return super().open_source(data)
        return ShapesPreferences(prepare_shapes_preferences(data.root, data.train, data.test), "train")

    def evaluators(self) -> Mapping[str, Evaluator]:
        return {NAME: shapes_scorer_evaluator(self)} if self.config.data.name == NAME else super().evaluators()


class ShapesAutoencoderTask:
    """Trains the VAE of the world's editors: squared error of both pictures of a pair plus a small KL term.

    Published editors come with Stable Diffusion's VAE.
    """

    partition_rules = PARTITION_RULES
    trainable = ((".*", True),)
    schema: ClassVar[type[recipe.TrainingRecipe]] = AutoencoderRecipe

    def __init__(self, config: ConfigDict):
        recipe.check_recipe(config, self.schema)
        self.config = config
        self.vae = AutoencoderKL(AutoencoderConfig.from_hf(config.network.vae.to_dict()))
        self.source = _train_split(config.data)

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


def shapes_evaluator(task: EditingTask, config: ConfigDict, count: int = 64) -> Evaluator:
    """Mean scores of held-out scenes at the best reward, and a picture grid."""
    scenes = held_out_scenes(count)
    # Not ranked by the editor's own scores, so that every step shows the same scenes.
    rows = choose_rows(scenes, np.stack([scene.scores for scene in scenes]))
    reward = Reward() if config.reward.layout else None  # without a layout, the editor has no reward modules

    def evaluate(params: Mapping[str, Any], step: int) -> dict[str, Any]:
        pictures = edit_scenes(task.with_params(params), scenes, reward)
        scores = score(pictures, scenes)
        grid = draw_grid(scenes, [Column(f"step {step}", pictures, scores)], rows, "imperfect edits as in training")
        return {**dict(zip(PERSPECTIVES, scores.mean(0), strict=True)), "grid": grid}

    return evaluate


def shapes_scorer_evaluator(task: ScoringTask, count: int = 64) -> Evaluator:
    """Accuracy on held-out pairs, and the calibration error."""
    groups = held_out_groups(count)

    def evaluate(params: Mapping[str, Any], step: int) -> dict[str, Any]:
        report = evaluate_scorer(score_groups(task.with_params(params), groups), groups)
        pairs = next(row.value for row in report.rows if row.measure == "scorer, pairs")
        return {"pairs": pairs, "calibration_error": report.values["expected_calibration_error"]}

    return evaluate
