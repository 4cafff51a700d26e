"""Several imperfect edits of one scene, rated as people rate them: what a scorer learns from in the shapes world."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from rewardedit_jax.shapes.edits import Split, sample_case
from rewardedit_jax.shapes.example import SPLITS
from rewardedit_jax.shapes.oracle import judge_batch
from rewardedit_jax.shapes.render import render, to_uint8
from rewardedit_jax.shapes.scene import choose
from rewardedit_jax.shapes.spoil import render_spoiled, sample_spoil
from rewardedit_jax.shapes.wording import instructions

CANDIDATES = 4
_STREAM = 1  # of random numbers; edits for the editor have their own, so that no scene is in both by construction


@dataclass(frozen=True, eq=False)
class ShapesCandidates:
    """One source, one instruction, four edits."""

    key: str
    instruction: str
    source: UInt8[np.ndarray, "32 32 3"]
    ideal: UInt8[np.ndarray, "32 32 3"]
    candidates: UInt8[np.ndarray, "4 32 32 3"]
    scores: Float[np.ndarray, "4 3"]  # the oracle's, 0..5: following, preserving, quality
    ratings: Float[np.ndarray, "4 2"]  # whole numbers 1..4: following and quality, as EditReward's raters give
    edit_type: str


def shapes_candidates(index: int, split: Split, seed: int = 0) -> ShapesCandidates:
    """Group number `index` of a split: the same for the same three arguments, on every machine."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index, _STREAM])
    scene, edit = sample_case(rng, split)
    spoils = [sample_spoil(rng, scene, edit) for _ in range(CANDIDATES)]
    edited = np.stack([to_uint8(render_spoiled(rng, scene, spoil)) for spoil in spoils])
    source, ideal = to_uint8(render(scene)), to_uint8(render(edit.apply(scene)))
    repeated = [np.broadcast_to(image, edited.shape) for image in (source, ideal)]
    scores = judge_batch(edited, *repeated, [edit.type] * CANDIDATES)
    return ShapesCandidates(
        key=f"{split}-{seed}-{index}",
        instruction=choose(rng, instructions(edit)),
        source=source,
        ideal=ideal,
        candidates=edited,
        scores=scores,
        ratings=to_ratings(scores),
        edit_type=edit.type,
    )


def to_ratings(scores: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 2"]:
    """Ratings 1..4 of following and quality from scores 0..5 of following, preserving and quality.

    EditReward's raters count unasked changes against following (its third criterion, exclusivity), so that the worse of
    following and preserving is rated.
    """
    told = np.stack([scores[:, :2].min(axis=1), scores[:, 2]], axis=1)
    return (1 + np.rint(3 * told / 5)).astype(np.float32)
