"""The tasks of the shapes world: an editor and a scorer on its data, evaluated by its oracle."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from rewardedit_jax.data.clip_tokenizer import encode_texts
from rewardedit_jax.data.pipeline import EditBatch
from rewardedit_jax.data.records import PreferenceSource, Source
from rewardedit_jax.editing.recipe import SOURCES, EditingData, EditingRecipe
from rewardedit_jax.editing.task import EditingTask
from rewardedit_jax.params import Params
from rewardedit_jax.reward import PERSPECTIVES, Reward, join_feedback
from rewardedit_jax.scoring.recipe import PREFERENCES, ScoringData, ScoringRecipe
from rewardedit_jax.scoring.task import ScoringTask
from rewardedit_jax.shapes.editor_benchmark import edit_scenes, held_out_scenes, score
from rewardedit_jax.shapes.examples import NAME, ShapesSource, prepare_shapes
from rewardedit_jax.shapes.picture_grid import Column, choose_rows, draw_grid
from rewardedit_jax.shapes.preferences import ShapesPreferences, prepare_shapes_preferences
from rewardedit_jax.shapes.scorer_benchmark import evaluate_scorer, held_out_groups, score_groups
from rewardedit_jax.shapes.words import words_loss
from rewardedit_jax.training import recipe
from rewardedit_jax.training.task import Evaluator


class ShapesEditingData(EditingData, kw_only=True):
    name: Literal[*SOURCES, NAME]
    train: recipe.Count
    test: recipe.Count


class ShapesEditingRecipe(EditingRecipe, kw_only=True):
    data: ShapesEditingData
    words_weight: recipe.NotNegative = 0.0  # of `words_loss`, beside the squared error

    def __post_init__(self):
        super().__post_init__()
        if self.words_weight and self.data.cache:
            raise ValueError(f"words_weight={self.words_weight}: expected 0 with data.cache, which holds no tokens")


class ShapesScoringData(ScoringData, kw_only=True):
    name: Literal[*PREFERENCES, NAME]
    train: recipe.Count
    test: recipe.Count


class ShapesScoringRecipe(ScoringRecipe, kw_only=True):
    data: ShapesScoringData


class ShapesEditingTask(EditingTask):
    """Trains an editor on imperfect edits of procedural scenes."""

    schema = ShapesEditingRecipe

    def open_source(self, data: ConfigDict) -> Source:
        """The train split of `data.train` and `data.test` examples, written under `data.root` on first use."""
        if data.name != NAME:
            return super().open_source(data)
        return ShapesSource(prepare_shapes(data.root, data.train, data.test), "train")

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
