"""One example of the shapes world, as a pure function of its index."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from rewardedit_jax.data.records import EditRecord
from rewardedit_jax.shapes.edits import Edit, Split, sample_case
from rewardedit_jax.shapes.oracle import judge
from rewardedit_jax.shapes.render import render, to_uint8
from rewardedit_jax.shapes.scene import choose
from rewardedit_jax.shapes.spoil import CLEAN, Spoil, render_spoiled, sample_spoil
from rewardedit_jax.shapes.wording import (
    DISTURBED,
    INEXACT,
    NOTHING_FAILED,
    UNCLEAN,
    Wordings,
    damage,
    edit_missing,
    edit_partial,
    edit_wrong,
    instructions,
    unasked_change,
)

SPLITS = ("train", "test")


@dataclass(frozen=True, eq=False)
class ShapesExample(EditRecord):
    """A record whose perfect edit is known. `edited` is the imperfect one, `scores` are the oracle's."""

    ideal: UInt8[np.ndarray, "32 32 3"]
    edit_type: str  # one of EDIT_TYPES
    severity: tuple[int, int, int]  # what the edit was spoiled with: 5 is clean


def shapes_example(index: int, split: Split, seed: int = 0) -> ShapesExample:
    """Example number `index` of a split: the same for the same three arguments, on every machine.

    The severities decide how the edit is spoiled; the recorded scores are what the oracle measures on the picture that
    comes out, rounded to 0..5, since a spoil may show more or less than it was meant to.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    scene, edit = sample_case(rng, split)
    spoil = sample_spoil(rng, scene, edit)
    source, ideal = to_uint8(render(scene)), to_uint8(render(edit.apply(scene)))
    edited = to_uint8(render_spoiled(rng, scene, spoil))
    scores = np.rint(judge(edited, source, ideal, edit.type)[:3]).astype(np.float32)
    return ShapesExample(
        key=f"{split}-{seed}-{index}",
        instruction=choose(rng, instructions(edit)),
        source=source,
        edited=edited,
        scores=scores,
        feedback=_feedback(rng, edit, spoil, scores),
        ideal=ideal,
        edit_type=edit.type,
        severity=spoil.severity,
    )


def _feedback(rng: np.random.Generator, edit: Edit, spoil: Spoil, scores: np.ndarray) -> tuple[str, str, str]:
    failures = _following_failure(edit, spoil), _preserving_failure(edit, spoil), _quality_failure(spoil)
    return tuple(
        NOTHING_FAILED if score == CLEAN else choose(rng, wordings)
        for wordings, score in zip(failures, scores, strict=True)
    )


def _following_failure(edit: Edit, spoil: Spoil) -> Wordings:
    if spoil.made != edit:
        return edit_wrong(edit, spoil.made)
    if spoil.done == 0:
        return edit_missing(edit)
    return edit_partial(edit, spoil.done) if spoil.done < 1 else INEXACT


def _preserving_failure(edit: Edit, spoil: Spoil) -> Wordings:
    if spoil.unasked:
        return unasked_change(spoil.unasked, slight=spoil.unasked_share < 0.6)
    if edit.subject and spoil.made.subject.cell != edit.subject.cell:
        return unasked_change(spoil.made, slight=False)
    return DISTURBED


def _quality_failure(spoil: Spoil) -> Wordings:
    return damage(spoil.damage, spoil.severity[2]) if spoil.damage else UNCLEAN
