"""Questions about pictures of the shapes world with their answers: what its language model learns to see from.

Most kinds ask for one property of one object, so that the share of right answers says which properties are seen. The
kinds that begin with "named" quote an instruction and ask about the object that it names: an editor that reads its
instructions together with the source needs just this. All texts are in lower case; a colon before an instruction is
their only punctuation.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from rewardedit_jax.shapes import wording
from rewardedit_jax.shapes.scene import (
    COLORS,
    PLACES,
    SHAPES,
    TEXTURES,
    Edit,
    Scene,
    Shape,
    Split,
    choose,
    holds_out_edit,
)

_NUMBERS = ("zero", "one", "two", "three")
_NOTHING = "nothing"
# Side → step to the neighbour in the 2×2 grid: rows, columns.
_SIDES = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}


class VisualQuestion(NamedTuple):
    """A question about a picture, and its only answer."""

    kind: str  # one of KINDS
    text: str
    answer: str


def visual_questions(rng: np.random.Generator, scene: Scene, split: Split) -> list[VisualQuestion]:
    """One question of each kind, in random order.

    Instructions within questions belong to the split. A scene whose objects have no edit of that split has none.
    """
    shape = choose(rng, scene.shapes)
    found = [_ask(rng, scene, shape, kind) for kind in _ABOUT_SCENES]
    if edits := [edit for edit in object_edits(scene) if holds_out_edit(scene, edit) == (split == "test")]:
        found += [_ask_named(rng, scene, choose(rng, edits), kind) for kind in _NAMED]
    return [found[i] for i in rng.permutation(len(found))]


def object_edits(scene: Scene) -> list[Edit]:
    """Every edit of one of the scene's shapes, none of which leaves it as it is."""
    changes = [("local", "color", scene.free_colors()), ("local", "form", SHAPES), ("texture", "texture", TEXTURES)]
    edits = [Edit("remove", shape) for shape in scene.shapes]
    for shape, (kind, attribute, values) in product(scene.shapes, changes):
        edits += [Edit(kind, shape, attribute, value) for value in values]
    return [edit for edit in edits if edit.would_change(edit.subject)]


def language_texts() -> Iterator[str]:
    """Texts with every word of questions and answers, in a fixed order, for the tokenizer."""
    yield from (*_NUMBERS, _NOTHING, "yes", "no", *_SIDES, "the shape")
    yield _describe(Scene("white", "even", (Shape("circle", "red"), Shape("square", "blue", cell=1))))
    # Slots are filled by words of instructions.
    questions = (text for asked in (*_ABOUT_SCENES.values(), *_NAMED.values()) for text in asked)
    yield from (" ".join(text.format("", shape="").split()) for text in questions)
    yield from wording.vocabulary_texts()


# By kind: the forms of the question. {shape}: a reference that does not give the answer away; {}: what the kind varies.
_ABOUT_SCENES = {
    "description": ("describe the picture",),
    "cell": ("what is at the {}",),
    "place": ("where is {shape}",),
    "color": ("what color is {shape}",),
    "form": ("what form has {shape}",),
    "texture": ("what texture has {shape}",),
    "count": ("how many shapes are there", "how many {} shapes are there"),
    "presence": ("is there a {}",),
    "background": ("what color is the background",),
    "neighbor": ("what is {} {shape}",),
}
_NAMED = {
    "named place": ("where is it : {}",),
    "named color": ("what color is it : {}",),
    "named form": ("what form has it : {}",),
    "named texture": ("what texture has it : {}",),
}
KINDS = (*_ABOUT_SCENES, *_NAMED)


def _ask(rng: np.random.Generator, scene: Scene, shape: Shape, kind: str) -> VisualQuestion:
    form = choose(rng, _ABOUT_SCENES[kind])
    subject, answer = "", ""
    match kind:
        case "description":
            answer = _describe(scene)
        case "cell":
            cell = int(rng.integers(len(PLACES)))
            subject, answer = PLACES[cell], _name_at(scene, cell)
        case "count":
            subject = choose(rng, (*SHAPES, *TEXTURES))
            counted = scene.shapes if "{}" not in form else [s for s in scene.shapes if subject in (s.form, s.texture)]
            answer = _NUMBERS[len(counted)]
        case "presence":
            subject, answer = _claim(rng, scene, shape)
        case "background":
            answer = scene.background
        case "neighbor":
            subject, cell = _neighbor(rng, shape)
            answer = _name_at(scene, cell)
        case _:
            answer = _answer(shape, kind)
    return VisualQuestion(kind, form.format(subject, shape=_refer(rng, scene, shape, kind)), answer)


def _ask_named(rng: np.random.Generator, scene: Scene, edit: Edit, kind: str) -> VisualQuestion:
    asked = kind.removeprefix("named ")
    usual = choose(rng, wording.instructions(edit))
    instruction = usual.replace(wording.topic(edit), _refer(rng, scene, edit.subject, asked))
    return VisualQuestion(kind, choose(rng, _NAMED[kind]).format(instruction), _answer(edit.subject, asked))


def _refer(rng: np.random.Generator, scene: Scene, shape: Shape, asked: str) -> str:
    """A reference to one shape of the scene without the property that is asked for."""
    place, by_color = f"at the {PLACES[shape.cell]}", f"the {shape.color} shape"
    match asked:
        case "place" | "neighbor":
            return choose(rng, (by_color, f"the {shape.color} {shape.form}"))
        case "color":
            # The form alone, where it is the only one of its kind, needs a look at all places.
            alone = [f"the {shape.form}"] if [s.form for s in scene.shapes].count(shape.form) == 1 else []
            return choose(rng, (f"the shape {place}", f"the {shape.form} {place}", *alone))
        case "form":
            return choose(rng, (by_color, f"the shape {place}"))
    return choose(rng, (by_color, f"the {shape.color} {shape.form}", f"the shape {place}"))


def _answer(shape: Shape, asked: str) -> str:
    return f"at the {PLACES[shape.cell]}" if asked == "place" else getattr(shape, asked)


def _claim(rng: np.random.Generator, scene: Scene, shape: Shape) -> tuple[str, str]:
    """A color and a form, and whether the scene has such a shape; both answers are equally likely."""
    if rng.random() < 0.5:
        return f"{shape.color} {shape.form}", "yes"
    there = {(s.color, s.form) for s in scene.shapes}
    # Half of the wrong ones have a color that is there: colors alone do not tell.
    colors = [s.color for s in scene.shapes] if rng.random() < 0.5 else list(COLORS)
    absent = [pair for pair in product(colors, SHAPES) if pair not in there]
    return " ".join(absent[rng.integers(len(absent))]), "no"


def _neighbor(rng: np.random.Generator, shape: Shape) -> tuple[str, int]:
    """A side of a shape on which the grid has a cell, and that cell."""
    row, column = divmod(shape.cell, 2)
    cells = {side: (row + down, column + right) for side, (down, right) in _SIDES.items()}
    inside = {side: 2 * r + c for side, (r, c) in cells.items() if 0 <= r < 2 and 0 <= c < 2}
    side = choose(rng, inside)
    return side, inside[side]


def _describe(scene: Scene) -> str:
    """All shapes, place after place, and the background."""
    shapes: Sequence[Shape] = sorted(scene.shapes, key=lambda shape: shape.cell)
    named = " and ".join(f"{_name_at(scene, shape.cell)} at the {PLACES[shape.cell]}" for shape in shapes)
    return f"{named} on {scene.background}"


def _name_at(scene: Scene, cell: int) -> str:
    names = [f"a {shape.texture} {shape.color} {shape.form}" for shape in scene.shapes if shape.cell == cell]
    return names[0] if names else _NOTHING
