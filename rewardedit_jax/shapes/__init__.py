"""The shapes world: procedural edits with known ideals, graded faults and an oracle judge."""

from rewardedit_jax.shapes.examples import ShapesBuilder, ShapesSource, prepare_shapes, shapes_example
from rewardedit_jax.shapes.oracle import judge, judge_batch
from rewardedit_jax.shapes.preferences import ShapesPreferences, prepare_shapes_preferences
from rewardedit_jax.shapes.scene import EDIT_TYPES
from rewardedit_jax.shapes.wording import vocabulary_texts

__all__ = [
    "EDIT_TYPES",
    "ShapesBuilder",
    "ShapesPreferences",
    "ShapesSource",
    "judge",
    "judge_batch",
    "prepare_shapes",
    "prepare_shapes_preferences",
    "shapes_example",
    "vocabulary_texts",
]
