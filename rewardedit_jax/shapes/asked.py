"""The rewards that the benchmark of editors asks for: scores by label, and feedback texts that fit each scene.

An editor has learnt texts that name objects: "the red circle is still there; the background turned white; the picture
is very noisy". A fixed text for all scenes would name nothing in the scene at hand, and three fixed texts together may
never occur in training. The texts here are therefore those of training pairs with faults of the asked severity, drawn
anew for each scene.
"""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from rewardedit_jax.reward import PERSPECTIVES, Reward
from rewardedit_jax.shapes.examples import describe, example_case
from rewardedit_jax.shapes.faults import CLEAN, sample_faults_of
from rewardedit_jax.shapes.scene import SPLITS, Split

# Part of the random seed, as in `preferences`: the draws of examples and groups stay as they are.
_STREAM = 2

# All three scores alike, from the best to the worst.
LEVELS: Mapping[str, tuple[int, int, int]] = {str(score): (score,) * 3 for score in range(CLEAN, -1, -1)}
# One score 0, the others 5: does the editor give up this perspective, and only this one?
STEERED: Mapping[str, tuple[int, int, int]] = {
    f"{name} 0": tuple(0 if other == name else CLEAN for other in PERSPECTIVES) for name in PERSPECTIVES
}
ASKED = {**LEVELS, **STEERED}  # label → scores of following, preserving and quality
# The rewards of Multi-Reward as Condition, table 6; the others are for the curve, on fewer scenes.
IN_TABLE = ("5", "3", "0")
FURTHER = tuple(label for label in ASKED if label not in IN_TABLE)


def asked_reward(label: str, index: int, split: Split = "test") -> Reward:
    """The reward `label` of `ASKED` for one scene: its scores, and what would fail in that scene at these scores."""
    scores = ASKED[label]
    texts = [asked_texts(index, split, score)[i] for i, score in enumerate(scores)]
    return Reward(*scores, tuple(texts))


@lru_cache(maxsize=4096)  # the labels share texts
def asked_texts(index: int, split: Split, score: int) -> tuple[str, str, str]:
    """Feedback for example number `index` at this score in each perspective; "None" for a score of 5.

    A failed edit is partial (scores 1 to 4) or missing (0). Changes that were not asked for are possible ones of that
    scene.
    """
    scene, edit = example_case(index, split)
    # Of its own, so that the draws of the example do not depend on the texts, nor those of a score on other scores.
    rng = np.random.default_rng([0, SPLITS.index(split), index, _STREAM, score])
    severity = (score,) * len(PERSPECTIVES)
    # "Another edit was made instead" is left out: which one is up to chance, and asking for it is another instruction.
    return describe(rng, edit, sample_faults_of(rng, scene, edit, severity, wrong_edits=False), severity)
