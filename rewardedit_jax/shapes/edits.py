"""The seven kinds of edit, and which of them only the test split may hold.

An edit maps a scene to another scene, so the *ideal* picture is the drawing of that scene. It is a function of source
and instruction alone: an added shape has the standard size and sits in the middle of the named cell.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rewardedit_jax.shapes.render import EFFECTS, STYLES
from rewardedit_jax.shapes.scene import (
    BACKGROUNDS,
    COLORS,
    FILLS,
    PLACES,
    SHAPES,
    TEXTURES,
    Scene,
    Shape,
    choose,
    sample_scene,
)

Split = Literal["train", "test"]
EDIT_TYPES = ("local", "remove", "add", "texture", "background", "global", "style")  # the order of Real-Edit
# Edits of single objects are the slowest to learn, so they come more often.
_TYPE_WEIGHTS = (0.20, 0.15, 0.20, 0.15, 0.10, 0.10, 0.10)
_RECOLOR_SHARE = 0.75  # of the local edits; the others change the form
_PERIOD = 6


@dataclass(frozen=True)
class Edit:
    """`subject` gets `attribute = value`; without an attribute it is added or removed.

    Without a subject it is the scene that gets the value.
    """

    type: str
    subject: Shape | None = None
    attribute: str | None = None
    value: str | None = None

    def would_change(self, shape: Shape) -> bool:
        return self.attribute is None or getattr(shape, self.attribute) != self.value

    def apply(self, scene: Scene) -> Scene:
        if self.type == "add":
            return scene.with_shape(None, self.subject)
        if self.type == "remove":
            return scene.with_shape(self.subject, None)
        change = {self.attribute: self.value}
        if self.subject is None:
            return replace(scene, **change)
        return scene.with_shape(self.subject, replace(self.subject, **change))


def sample_case(rng: np.random.Generator, split: Split) -> tuple[Scene, Edit]:
    """A scene and an edit of it that belong to the split."""
    edit_type = EDIT_TYPES[rng.choice(len(EDIT_TYPES), p=_TYPE_WEIGHTS)]
    while True:
        scene = sample_scene(rng)
        edit = sample_edit(rng, scene, edit_type)
        new = holds_out(scene), holds_out_edit(scene, edit)
        if all(new) if split == "test" else not any(new):
            return scene, edit


def sample_edit(rng: np.random.Generator, scene: Scene, edit_type: str) -> Edit:
    """An edit of the type that changes the scene."""
    if edit_type == "add":
        new = Shape(choose(rng, SHAPES), choose(rng, scene.free_colors()), cell=choose(rng, scene.free_cells()))
        return Edit("add", new)
    if edit_type in ("background", "global", "style"):
        attribute, values = _SCENE_VALUES[edit_type]
        return Edit(edit_type, None, attribute, choose(rng, [v for v in values if v != getattr(scene, attribute)]))
    subject = choose(rng, scene.shapes)
    if edit_type == "remove":
        return Edit("remove", subject)
    if edit_type == "texture":
        return Edit("texture", subject, "texture", choose(rng, [t for t in TEXTURES if t != subject.texture]))
    if rng.random() < _RECOLOR_SHARE:
        return Edit("local", subject, "color", choose(rng, scene.free_colors()))
    return Edit("local", subject, "form", choose(rng, [form for form in SHAPES if form != subject.form]))


_SCENE_VALUES = {
    "background": ("background", tuple(BACKGROUNDS)),
    "global": ("effect", tuple(EFFECTS)),
    "style": ("style", STYLES),
}
_ORDER = {
    name: i
    for names in (SHAPES, COLORS, TEXTURES, BACKGROUNDS, FILLS, PLACES, EFFECTS, STYLES)
    for i, name in enumerate(names)
}


def holds_out(scene: Scene) -> bool:
    """Whether a shape meets a background colour that shapes of its form and colour never meet in training."""
    ground = _ORDER[scene.background]
    return any((_ORDER[s.form] + _ORDER[s.color] + ground) % _PERIOD == 0 for s in scene.shapes)


def holds_out_edit(scene: Scene, edit: Edit) -> bool:
    """Whether the edit is one of the sixth that training never asks for: a Latin-square rule over three properties.

    Every pair of properties is trained with some third; only the triple is new.
    """
    shape = edit.subject
    if shape is None:
        names = edit.value, scene.background, scene.fill
    elif edit.attribute is None:
        names = shape.form, shape.color, PLACES[shape.cell]
    else:
        names = shape.form, shape.color, edit.value
    return sum(_ORDER[name] for name in names) % _PERIOD == _PERIOD - 1
