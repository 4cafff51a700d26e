"""Training examples of editors in the shapes world, as a pure function of their index."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from rewardedit_jax.data.records import EditRecord
from rewardedit_jax.shapes import wording
from rewardedit_jax.shapes.oracle import judge
from rewardedit_jax.shapes.render import render, to_uint8
from rewardedit_jax.shapes.scene import SPLITS, Edit, Split, choose, sample_case
from rewardedit_jax.shapes.spoil import CLEAN, Spoil, render_spoiled, sample_spoil
from rewardedit_jax.shapes.wording import Wordings, instructions


@dataclass(frozen=True, eq=False)
class ShapesExample(EditRecord):
    """A record with its ideal edit. `edited` is the imperfect edit, `scores` are the oracle's."""

    ideal: UInt8[np.ndarray, "32 32 3"]
    edit_type: str  # one of EDIT_TYPES
    severity: tuple[int, int, int]  # of the faults in each perspective; 5 is clean


def shapes_example(index: int, split: Split, seed: int = 0) -> ShapesExample:
    """Example number `index` of a split: the same for the same three arguments, on every machine.

    The recorded scores are the oracle's, rounded to 0..5, and not the severities: a fault may be more or less visible
    than its severity suggests.
    """
    # The order of the draws is part of the data: another order gives other examples.
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
    """One text for each perspective, "None" for a score of 5."""
    quality = wording.damage(spoil.damage, spoil.severity[2]) if spoil.damage else wording.UNCLEAN
    failures = _following_failure(edit, spoil), _preserving_failure(edit, spoil), quality
    return tuple(
        wording.NOTHING_FAILED if score == CLEAN else choose(rng, wordings)
        for wordings, score in zip(failures, scores, strict=True)
    )


def _following_failure(edit: Edit, spoil: Spoil) -> Wordings:
    if spoil.made != edit:
        return wording.edit_wrong(edit, spoil.made)
    if spoil.done == 0:
        return wording.edit_missing(edit)
    return wording.edit_partial(edit, spoil.done) if spoil.done < 1 else wording.INEXACT


def _preserving_failure(edit: Edit, spoil: Spoil) -> Wordings:
    if spoil.unasked:
        return wording.unasked_change(spoil.unasked, slight=spoil.unasked_share < 0.6)
    # An edit of another object is an unrequested change of that object.
    if edit.subject and spoil.made.subject.cell != edit.subject.cell:
        return wording.unasked_change(spoil.made, slight=False)
    return wording.DISTURBED
