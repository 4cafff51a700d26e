"""The shapes benchmark: edits of held-out scenes, judged by the oracle.

Scene i always starts from the noise of seed i, so the scores of two models, or of one model asked for two rewards,
differ in pairs: their mean difference is known far better than either mean.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.editing.task import EditingTask
from rewardedit_jax.reward import PERSPECTIVES, Reward
from rewardedit_jax.shapes import ShapesExample, judge_batch, shapes_example
from rewardedit_jax.shapes.pictures import Column, choose_rows, draw_grid
from rewardedit_jax.shapes.results import Result

# Scores to ask for. What fails is told in the commonest texts of training pairs with that score which name no object
# of the scene, so that an editor that reads texts only can be asked as well.
ASKED: Mapping[str, Reward] = MappingProxyType(
    {
        "5": Reward(),
        "3": Reward(3, 3, 3, ("the edit is not exact", "other parts changed slightly", "the picture is blurred")),
        "0": Reward(
            0, 0, 0, ("the picture was not changed", "the background turned black", "the picture is very noisy")
        ),
    }
)
NOTHING = "none"  # asked of an editor without reward modules
SETTINGS = MappingProxyType(
    {"sampler": "ddim", "steps": 15, "text_guidance": 3.0, "image_guidance": 1.5, "batch_size": 64}
)


def held_out_scenes(count: int) -> list[ShapesExample]:
    """The first examples of the test split of every shapes data set, whatever its size: no files are needed."""
    return [shapes_example(i, "test") for i in range(count)]


def edit_scenes(
    editor: Editor,
    scenes: Sequence[ShapesExample],
    reward: Reward | None,
    settings: Mapping[str, Any] = SETTINGS,
) -> UInt8[np.ndarray, "n 32 32 3"]:
    """What the editor makes of the scenes when asked for `reward`; None for editors without reward modules."""
    edited = editor.edit(
        [scene.source for scene in scenes],
        [scene.instruction for scene in scenes],
        reward=reward,
        seed=range(len(scenes)),
        output="array",
        **settings,
    )
    return np.uint8(np.round(edited * 255))


def score(pictures: UInt8[np.ndarray, "n 32 32 3"], scenes: Sequence[ShapesExample]) -> Float[np.ndarray, "n 3"]:
    """The oracle's scores 0..5: following, preserving, quality."""
    sources, ideals = (np.stack([getattr(scene, name) for scene in scenes]) for name in ("source", "ideal"))
    return judge_batch(pictures, sources, ideals, [scene.edit_type for scene in scenes])


def evaluate_editor(editor: Editor, scenes: Sequence[ShapesExample]) -> Result:
    """Asks for each reward of `ASKED`, or for none where the editor has no reward modules."""
    asked = ASKED if editor.has_reward else {NOTHING: None}
    pictures = {label: edit_scenes(editor, scenes, reward) for label, reward in asked.items()}
    return Result({label: score(p, scenes) for label, p in pictures.items()}, pictures)


def references(scenes: Sequence[ShapesExample]) -> dict[str, Float[np.ndarray, "n 3"]]:
    """What scores without a model: doing nothing, and the imperfect edits that editors are trained on."""
    named = {"source, unchanged": "source", "imperfect edits": "edited"}
    return {name: score(np.stack([getattr(s, field) for s in scenes]), scenes) for name, field in named.items()}


def shapes_evaluator(
    task: EditingTask, config: ConfigDict, count: int = 64
) -> Callable[[Mapping[str, Any], int], dict[str, Any]]:
    """For `training.loop.train`: mean scores at the best reward, and a picture grid.

    Args:
      config: `reward.layout`; an editor without reward modules is asked for none.
    """
    scenes = held_out_scenes(count)
    reward = Reward() if config.reward.layout else None

    def evaluate(params: Mapping[str, Any], step: int) -> dict[str, Any]:
        pictures = edit_scenes(task.with_params(params), scenes, reward)
        scores = score(pictures, scenes)
        grid = draw_grid(scenes, [Column(f"step {step}", pictures, scores)], choose_rows(scenes))
        return {**dict(zip(PERSPECTIVES, scores.mean(0), strict=True)), "grid": grid}

    return evaluate
