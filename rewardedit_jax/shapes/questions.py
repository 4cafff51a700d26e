"""Harder questions for editors of the shapes world: instructions in forms that training never has.

Multi-Reward as Condition names quantifiers and spatial words as failures (appendix A). Every question is about edits of
single objects of the same held-out scenes, so that its scores can be compared with those of the usual instructions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from rewardedit_jax.shapes import wording
from rewardedit_jax.shapes.render import render, to_uint8
from rewardedit_jax.shapes.scene import PLACES, SPLITS, Edit, Scene, choose, sample_case, sample_edit

# Part of the random seed, as in `preferences` and `asked`.
_STREAM = 3
_OBJECT_TYPES = ("local", "remove", "texture")
# Other wordings of the same edits, by attribute or type. {}: the new value; {it}: what is edited.
_OTHER_WORDINGS = {
    "color": ("recolor {it} as {}", "i want {it} to be {}", "{it} should become {}"),
    "form": ("transform {it} into a {}", "i want a {} instead of {it}", "swap {it} for a {}"),
    "texture": ("cover {it} with a {} pattern", "i want {it} to be {}", "{it} should become {}"),
    "remove": ("get rid of {it}", "i do not want {it}", "clear {it} from the picture"),
}
# The same value for every shape of the scene.
_QUANTIFIED = {
    "color": ("make all shapes {}", "paint every shape {}"),
    "form": ("turn all shapes into a {}", "replace every shape with a {}"),
    "texture": ("make all shapes {}", "give every shape a {} texture"),
    "remove": ("remove all shapes", "delete every shape"),
}


@dataclass(frozen=True, eq=False)
class Question:
    """A picture, the instructions to apply to it one after the other, and the ideal result."""

    source: UInt8[np.ndarray, "32 32 3"]
    instructions: tuple[str, ...]
    ideal: UInt8[np.ndarray, "32 32 3"]
    edit_type: str  # of the first instruction


def harder_questions(count: int) -> Mapping[str, list[Question]]:
    """Kind of question → `count` questions. Number i of every kind is about the same scene and the same first edit.

    - "as in training": one edit of one object, in a wording of training; the others are measured against it.
    - "other wording": the same edit in a wording that training lacks, mostly with new words.
    - "spatial words": the same edit of an object that is named by its place, as "the circle at the top left". Form and
      place tell it from all other objects, and all words occur in training.
    - "quantifier": the same change of all shapes.
    - "two in turn": the edit, and then one of another object on what came out.
    """
    questions: dict[str, list[Question]] = {}
    for index in range(count):
        for kind, question in _questions(index):
            questions.setdefault(kind, []).append(question)
    return questions


def _questions(index: int) -> Iterator[tuple[str, Question]]:
    rng = np.random.default_rng([0, SPLITS.index("test"), index, _STREAM])
    scene, edit = _sample_object_edit(rng)
    usual = choose(rng, wording.instructions(edit))
    topic, key = wording.topic(edit), edit.attribute or edit.type

    def question(ideal: Scene, *instructions: str) -> Question:
        return Question(_draw(scene), instructions, _draw(ideal), edit.type)

    edited = edit.apply(scene)
    yield "as in training", question(edited, usual)
    yield "other wording", question(edited, choose(rng, _OTHER_WORDINGS[key]).format(edit.value, it=topic))
    placed = f"the {edit.subject.form} at the {PLACES[edit.subject.cell]}"
    yield "spatial words", question(edited, usual.replace(topic, placed))
    quantified = choose(rng, _QUANTIFIED[key]).format(edit.value)
    yield "quantifier", question(_change_all(scene, edit), quantified)
    second = _sample_second_edit(rng, edited, edit)
    yield "two in turn", question(second.apply(edited), usual, choose(rng, wording.instructions(second)))


def _sample_object_edit(rng: np.random.Generator) -> tuple[Scene, Edit]:
    """A held-out scene with several shapes, and a held-out edit of one of them."""
    while True:
        scene, edit = sample_case(rng, "test")
        if edit.type in _OBJECT_TYPES and len(scene.shapes) > 1:
            return scene, edit


def _sample_second_edit(rng: np.random.Generator, scene: Scene, first: Edit) -> Edit:
    """An edit of another object than the first one's."""
    while True:
        edit = sample_edit(rng, scene, choose(rng, _OBJECT_TYPES))
        if edit.subject.cell != first.subject.cell:
            return edit


def _change_all(scene: Scene, edit: Edit) -> Scene:
    if edit.type == "remove":
        return replace(scene, shapes=())
    return replace(scene, shapes=tuple(replace(shape, **{edit.attribute: edit.value}) for shape in scene.shapes))


def _draw(scene: Scene) -> UInt8[np.ndarray, "32 32 3"]:
    return to_uint8(render(scene))
