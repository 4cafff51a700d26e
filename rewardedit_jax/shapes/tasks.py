"""The editing and the scoring task on data of the shapes world, with the oracle judge as evaluator."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from rewardedit_jax.data.preferences import PreferenceSource
from rewardedit_jax.data.records import Source
from rewardedit_jax.editing.task import EditingTask
from rewardedit_jax.scoring.task import ScoringTask
from rewardedit_jax.shapes.builder import ShapesSource, prepare_shapes
from rewardedit_jax.shapes.editor_benchmark import shapes_evaluator
from rewardedit_jax.shapes.preferences import ShapesPreferences, prepare_shapes_preferences
from rewardedit_jax.shapes.scorer_benchmark import shapes_scorer_evaluator
from rewardedit_jax.training.task import Evaluator

NAME = "shapes"  # as `config.data.name`; other names are public layouts, as of the tasks that are specialised here


class ShapesEditingTask(EditingTask):
    """Trains an editor on imperfect edits of procedural scenes."""

    def open_source(self, data: ConfigDict) -> Source:
        """`data.train` and `data.test` examples, written under `data.root` on first use."""
        if data.name != NAME:
            return super().open_source(data)
        return ShapesSource(prepare_shapes(data.root, train=data.train, test=data.test), "train")

    def evaluators(self) -> Mapping[str, Evaluator]:
        # The oracle knows the ideal edit of its own scenes only.
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
