"""Scenes and edits of them: what a picture shows, the seven kinds of edit, and which of them only the test split has.

A scene has up to four coloured, textured shapes, one to a cell of a 2×2 grid, on a background. It is a value; an edit
maps it to another scene, so the *ideal* picture is the drawing of that scene. The ideal is a function of source and
instruction alone: an added shape has the standard size and sits in the middle of the named cell.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

SHAPES = ("circle", "square", "triangle")
# RGB in 0..1. Any two are far apart, so that the oracle can tell a wrong colour from an incomplete change.
COLORS = {
    "red": (0.90, 0.08, 0.08),
    "green": (0.08, 0.65, 0.12),
    "blue": (0.10, 0.20, 0.95),
    "yellow": (1.00, 0.90, 0.10),
    "purple": (0.75, 0.10, 0.85),
    "cyan": (0.10, 0.85, 0.95),
}
TEXTURES = ("plain", "striped", "dotted", "checkered")
BACKGROUNDS = {
    "white": (0.95, 0.95, 0.95),
    "gray": (0.52, 0.52, 0.52),
    "black": (0.07, 0.07, 0.07),
    "brown": (0.45, 0.27, 0.12),
    "pink": (1.00, 0.62, 0.70),
    "mint": (0.60, 0.92, 0.72),
}
FILLS = ("even", "fading", "split")
PLACES = ("top left", "top right", "bottom left", "bottom right")  # the name of each cell, row by row
# Light and weather, as a map of each colour channel: gain, then offset.
EFFECTS = {
    "night": ((0.28, 0.34, 0.55), (0.0, 0.0, 0.02)),
    "sunset": ((0.92, 0.60, 0.35), (0.08, 0.02, 0.0)),
    "fog": ((0.38, 0.38, 0.38), (0.43, 0.44, 0.45)),
}
STYLES = ("sketch", "blueprint", "cartoon", "gray photo")
# Pixels. Few values, so that `render` can cache every tile; the largest shape with any offset stays in its 16×16 cell.
RADII = (6.0, 6.5, 7.0)
OFFSETS = (-0.5, 0.0, 0.5)

Split = Literal["train", "test"]
SPLITS = ("train", "test")
EDIT_TYPES = ("local", "remove", "add", "texture", "background", "global", "style")  # the order of Real-Edit
# Edits of single objects are the slowest to learn, so they are drawn more often.
_TYPE_WEIGHTS = (0.20, 0.15, 0.20, 0.15, 0.10, 0.10, 0.10)
_RECOLOR_SHARE = 0.75  # of the local edits; the others change the form
SCENE_ATTRIBUTES = {"background": "background", "global": "effect", "style": "style"}  # of edits of a whole scene
# Values of the attributes that an edit sets; a new colour has to be one of `Scene.free_colors`.
VALUES = {
    "form": SHAPES,
    "texture": TEXTURES,
    "background": tuple(BACKGROUNDS),
    "effect": tuple(EFFECTS),
    "style": STYLES,
}
# Position of each name in its list; the rules of the splits add up positions.
_ORDER = {
    name: i
    for names in (SHAPES, COLORS, TEXTURES, BACKGROUNDS, FILLS, PLACES, EFFECTS, STYLES)
    for i, name in enumerate(names)
}
_PERIOD = 6  # the rules hold out one combination in six


@dataclass(frozen=True)
class Shape:
    """One shape. `cell` counts the 2×2 grid row by row; radius and offsets from the cell's centre are in pixels."""

    form: str
    color: str
    texture: str = "plain"
    cell: int = 0
    radius: float = 6.5
    dx: float = 0.0
    dy: float = 0.0


@dataclass(frozen=True)
class Scene:
    """All that a picture shows. No two shapes share a colour, so "the red circle" is never ambiguous."""

    background: str
    fill: str
    shapes: tuple[Shape, ...]
    effect: str | None = None  # weather or light over the whole picture
    style: str | None = None  # drawing style

    def free_cells(self) -> list[int]:
        taken = {shape.cell for shape in self.shapes}
        return [cell for cell in range(len(PLACES)) if cell not in taken]

    def free_colors(self) -> list[str]:
        taken = {shape.color for shape in self.shapes}
        return [color for color in COLORS if color not in taken]

    def with_shape(self, old: Shape | None, new: Shape | None) -> "Scene":
        """The scene with one shape replaced, added (`old` None) or removed (`new` None)."""
        kept = tuple(shape for shape in self.shapes if old is None or shape.cell != old.cell)
        return replace(self, shapes=kept + ((new,) if new else ()))


@dataclass(frozen=True)
class Edit:
    """Sets `attribute` of `subject` to `value`.

    Without an attribute the subject is added or removed; without a subject the scene's attribute is set.
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


def choose(rng: np.random.Generator, values):
    """One element of a non-empty sequence (or key of a dictionary), all equally likely."""
    values = tuple(values)
    return values[rng.integers(len(values))]


def sample_scene(rng: np.random.Generator) -> Scene:
    """One to three shapes of different colours in different cells; half of the shapes are plain."""
    count = 1 + int(rng.integers(3))
    cells, colors = rng.permutation(len(PLACES)), rng.permutation(len(COLORS))
    names = tuple(COLORS)
    shapes = tuple(
        Shape(
            form=choose(rng, SHAPES),
            color=names[colors[i]],
            texture="plain" if rng.random() < 0.5 else choose(rng, TEXTURES[1:]),
            cell=int(cells[i]),
            radius=choose(rng, RADII),
            dx=choose(rng, OFFSETS),
            dy=choose(rng, OFFSETS),
        )
        for i in range(count)
    )
    return Scene(background=choose(rng, BACKGROUNDS), fill=choose(rng, FILLS), shapes=shapes)


def sample_case(rng: np.random.Generator, split: Split) -> tuple[Scene, Edit]:
    """A scene and an edit of it that belong to the split."""
    # The type is drawn first, so that rejected scenes do not change the shares of the types.
    edit_type = EDIT_TYPES[rng.choice(len(EDIT_TYPES), p=_TYPE_WEIGHTS)]
    while True:
        scene = sample_scene(rng)
        edit = sample_edit(rng, scene, edit_type)
        held_out = holds_out(scene), holds_out_edit(scene, edit)
        # Both rules must hold for the test split, neither for the train split.
        if all(held_out) if split == "test" else not any(held_out):
            return scene, edit


def sample_edit(rng: np.random.Generator, scene: Scene, edit_type: str) -> Edit:
    """An edit of the type that changes the scene."""
    if edit_type == "add":
        new = Shape(choose(rng, SHAPES), choose(rng, scene.free_colors()), cell=choose(rng, scene.free_cells()))
        return Edit("add", new)
    if attribute := SCENE_ATTRIBUTES.get(edit_type):
        return Edit(edit_type, None, attribute, _new_value(rng, scene, attribute))
    subject = choose(rng, scene.shapes)
    if edit_type == "remove":
        return Edit("remove", subject)
    if edit_type == "texture":
        return Edit("texture", subject, "texture", _new_value(rng, subject, "texture"))
    if rng.random() < _RECOLOR_SHARE:
        return Edit("local", subject, "color", choose(rng, scene.free_colors()))
    return Edit("local", subject, "form", _new_value(rng, subject, "form"))


def _new_value(rng: np.random.Generator, item: Scene | Shape, attribute: str) -> str:
    return choose(rng, [value for value in VALUES[attribute] if value != getattr(item, attribute)])


def holds_out(scene: Scene) -> bool:
    """Whether a shape has a combination of form, colour and background that training never shows."""
    ground = _ORDER[scene.background]
    return any((_ORDER[s.form] + _ORDER[s.color] + ground) % _PERIOD == 0 for s in scene.shapes)


def holds_out_edit(scene: Scene, edit: Edit) -> bool:
    """Whether the edit is one of the sixth that training never has: a Latin-square rule over three properties.

    Training has every pair of properties with some third one; only the triple is new.
    """
    shape = edit.subject
    if shape is None:
        names = edit.value, scene.background, scene.fill
    elif edit.attribute is None:
        names = shape.form, shape.color, PLACES[shape.cell]
    else:
        names = shape.form, shape.color, edit.value
    return sum(_ORDER[name] for name in names) % _PERIOD == _PERIOD - 1
