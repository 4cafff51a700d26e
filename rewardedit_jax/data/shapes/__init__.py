"""The shapes world: procedural edits with known ideal, graded imperfections and an oracle judge."""

from rewardedit_jax.data.shapes.builder import ShapesBuilder, ShapesSource, prepare_shapes
from rewardedit_jax.data.shapes.edits import EDIT_TYPES
from rewardedit_jax.data.shapes.example import ShapesExample, shapes_example
from rewardedit_jax.data.shapes.oracle import Judgement, judge, judge_batch
from rewardedit_jax.data.shapes.preferences import ShapesPreferences, prepare_shapes_preferences
from rewardedit_jax.data.shapes.wording import vocabulary_texts

__all__ = [
    "EDIT_TYPES",
    "Judgement",
    "ShapesBuilder",
    "ShapesExample",
    "ShapesPreferences",
    "ShapesSource",
    "judge",
    "judge_batch",
    "prepare_shapes",
    "prepare_shapes_preferences",
    "shapes_example",
    "vocabulary_texts",
]
