"""The editing and the scoring task on data of the shapes world, with the oracle's benchmarks as evaluators."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from rewardedit_jax.data.records import PreferenceSource, Source
from rewardedit_jax.editing.task import EditingTask
from rewardedit_jax.reward import PERSPECTIVES, Reward
from rewardedit_jax.scoring.task import ScoringTask
from rewardedit_jax.shapes.builder import ShapesSource, prepare_shapes
from rewardedit_jax.shapes.editor_benchmark import edit_scenes, held_out_scenes, score
from rewardedit_jax.shapes.editor_report import Column, choose_rows, draw_grid
from rewardedit_jax.shapes.preferences import ShapesPreferences, prepare_shapes_preferences
from rewardedit_jax.shapes.scorer_benchmark import evaluate_scorer, held_out_groups, score_groups
from rewardedit_jax.training.task import Evaluator

NAME = "shapes"  # as `config.data.name`; the parent classes know the other names


class ShapesEditingTask(EditingTask):
    """Trains an editor on imperfect edits of procedural scenes."""

    def open_source(self, data: ConfigDict) -> Source:
        """The train split of `data.train` and `data.test` examples, written under `data.root` on first use."""
        if data.name != NAME:
            return super().open_source(data)
        return ShapesSource(prepare_shapes(data.root, train=data.train, test=data.test), "train")

    def evaluators(self) -> Mapping[str, Evaluator]:
        # The oracle needs the ideal edit, which only scenes of its own world have.
        return {NAME: shapes_evaluator(self, self.config)} if self.config.data.name == NAME else super().evaluators()


class ShapesScoringTask(ScoringTask):
    """Trains a scorer on rated edits of procedural scenes."""

    def open_source(self, data: ConfigDict) -> PreferenceSource:
        """All pairs of `data.train` groups of four edits, written under `data.root` on first use."""
        if data.name != NAME:
            return super().open_source(data)
        return ShapesPreferences(prepare_shapes_preferences(data.root, data.train, data.test), "train")

    def evaluators(self) -> Mapping[str, Evaluator]:
        return {NAME: shapes_scorer_evaluator(self)} if self.config.data.name == NAME else super().evaluators()


def shapes_evaluator(task: EditingTask, config: ConfigDict, count: int = 64) -> Evaluator:
    """Mean scores of held-out scenes at the best reward, and a picture grid, for `training.loop.train`.

    Args:
      config: the recipe; an empty `reward.layout` is an editor without reward modules, which takes no reward.
    """
    scenes = held_out_scenes(count)
    reward = Reward() if config.reward.layout else None

    def evaluate(params: Mapping[str, Any], step: int) -> dict[str, Any]:
        pictures = edit_scenes(task.with_params(params), scenes, reward)
        scores = score(pictures, scenes)
        grid = draw_grid(scenes, [Column(f"step {step}", pictures, scores)], choose_rows(scenes))
        return {**dict(zip(PERSPECTIVES, scores.mean(0), strict=True)), "grid": grid}

    return evaluate


def shapes_scorer_evaluator(task: ScoringTask, count: int = 64) -> Evaluator:
    """Accuracy on held-out pairs and calibration error, for `training.loop.train`."""
    groups = held_out_groups(count)

    def evaluate(params: Mapping[str, Any], step: int) -> dict[str, Any]:
        report = evaluate_scorer(score_groups(task.with_params(params), groups), groups)
        pairs = next(row.value for row in report.rows if row.measure == "scorer, pairs")
        return {"pairs": pairs, "calibration_error": report.values["expected_calibration_error"]}

    return evaluate
