"""Imperfect edits, as automatic triplets have them: each perspective is spoiled on its own, with a graded severity.

Severity 5 is clean, 0 the worst. Following is spoiled by doing a part of the edit, nothing, or another edit; preserving
by a change that nobody asked for; quality by blur, noise or coarse blocks. The first two are bilinear mixtures of
drawings, so each grade is a picture between two clean ones.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from rewardedit_jax.data.shapes.edits import Edit
from rewardedit_jax.data.shapes.render import EFFECTS, render
from rewardedit_jax.data.shapes.scene import BACKGROUNDS, SHAPES, TEXTURES, Scene, Shape, choose

CLEAN = 5
_SEVERITIES = (0.08, 0.12, 0.15, 0.17, 0.18, 0.30)  # the share of 0, 1, ... 5
_WRONG_SHARE = (0.6, 0.4, 0.0, 0.0, 0.0)  # how often a failed edit is another edit, by severity
_WRONG_SUBJECT_SHARE = 0.2
# Wanted size of an unasked change, by severity: root-mean-square difference in the two worst 8×8 patches.
_UNASKED = (0.55, 0.42, 0.33, 0.24, 0.15)
_UNASKED_TRIES = 5
_BLUR = (1.45, 1.15, 0.95, 0.78, 0.62)  # standard deviation, pixels
_NOISE = (0.16, 0.12, 0.085, 0.055, 0.032)  # standard deviation
_BLOCKS = ((1.0, 0.16), (0.9, 0.12), (0.75, 0.10), (0.6, 0.08), (0.5, 0.065))  # share; deviation of a block's colour
_BLOCK = 4

Picture = Float[np.ndarray, "32 32 3"]


@dataclass(frozen=True)
class Spoil:
    """What goes wrong with one edit."""

    severity: tuple[int, int, int]  # following, preserving, quality
    made: Edit  # the edit that is made: the one asked for, or another
    done: float  # how much of it: 0..1
    unasked: Edit | None
    damage: str | None  # blur, noise, blocks


def sample_spoil(rng: np.random.Generator, scene: Scene, edit: Edit) -> Spoil:
    """Draws each severity on its own."""
    severity = tuple(rng.choice(len(_SEVERITIES), 3, p=_SEVERITIES).tolist())
    following, preserving, quality = severity
    made, done = edit, following / CLEAN
    if following < CLEAN and rng.random() < _WRONG_SHARE[following]:
        wrong = _wrong_edit(rng, scene, edit)
        made, done = (wrong, 1.0) if wrong else (edit, done)
    unasked = None if preserving == CLEAN else _unasked_edit(rng, scene, edit, made, _UNASKED[preserving])
    damage = None if quality == CLEAN else choose(rng, ("blur", "noise", "blocks"))
    return Spoil(severity, made, done, unasked, damage)


def render_spoiled(rng: np.random.Generator, scene: Scene, spoil: Spoil) -> Picture:
    """The imperfect picture, float32; noise may leave 0..1."""
    picture = _mix(render(scene), render(spoil.made.apply(scene)), spoil.done)
    if spoil.unasked:
        other = spoil.unasked.apply(scene)
        also = _mix(render(other), render(spoil.made.apply(other)), spoil.done)
        wanted = _UNASKED[spoil.severity[1]]
        picture = _mix(picture, also, min(1, wanted / _change(scene, spoil.unasked)))
    return _damage(rng, picture, spoil.damage, spoil.severity[2]) if spoil.damage else picture


def _mix(a: Picture, b: Picture, share: float) -> Picture:
    return a + np.float32(share) * (b - a)


def _wrong_edit(rng: np.random.Generator, scene: Scene, edit: Edit) -> Edit | None:
    """Another edit of the same type that changes the scene; None where there is none."""
    subject = edit.subject
    if edit.type == "add":
        cells = [cell for cell in scene.free_cells() if cell != subject.cell]
        if cells and rng.random() < 0.5:
            return replace(edit, subject=replace(subject, cell=choose(rng, cells)))
        colors = [color for color in scene.free_colors() if color != subject.color]
        return replace(edit, subject=replace(subject, color=choose(rng, colors)))
    if subject:
        # Only a shape that the edit would change can be mistaken for the one that is meant.
        others = [
            s for s in scene.shapes if s != subject and not (edit.value and getattr(s, edit.attribute) == edit.value)
        ]
        if edit.type == "remove":
            return replace(edit, subject=choose(rng, others)) if others else None
        if others and rng.random() < _WRONG_SUBJECT_SHARE:
            return replace(edit, subject=choose(rng, others))
    present = getattr(subject or scene, edit.attribute)
    values = {
        "color": scene.free_colors(),
        "form": SHAPES,
        "texture": TEXTURES,
        "background": BACKGROUNDS,
        "effect": EFFECTS,
        "style": ("gray photo",),
    }[edit.attribute]
    values = [value for value in values if value not in (present, edit.value)]
    return replace(edit, value=choose(rng, values)) if values else None


def _unasked_edit(rng: np.random.Generator, scene: Scene, edit: Edit, made: Edit, wanted: float) -> Edit:
    """A change outside of what was asked and of what was made: of a few, the first that is large enough, or the largest."""
    changes = []
    for _ in range(_UNASKED_TRIES):
        changes.append(_any_unasked(rng, scene, edit, made))
        if _change(scene, changes[-1]) >= wanted:
            return changes[-1]
    return max(changes, key=lambda change: _change(scene, change))


def _any_unasked(rng: np.random.Generator, scene: Scene, edit: Edit, made: Edit) -> Edit:
    busy = {e.subject.cell for e in (edit, made) if e.subject}
    others = [shape for shape in scene.shapes if shape.cell not in busy]
    cells = [cell for cell in scene.free_cells() if cell not in busy]
    used = {edit.value, made.value} | {e.subject.color for e in (edit, made) if e.subject}
    colors = [color for color in scene.free_colors() if color not in used]
    kinds = ["remove"] * bool(others)
    if others and edit.type != "style":  # some styles hide colours
        kinds.append("local")
    if cells and edit.type != "background":  # a new shape would lie where the background changes
        kinds.append("add")
    if edit.type in ("local", "add", "texture"):  # elsewhere the background is, or shows in, what is edited
        kinds.append("background")
    kind = choose(rng, kinds)
    if kind == "add":
        return Edit("add", Shape(choose(rng, SHAPES), choose(rng, colors), cell=choose(rng, cells)))
    if kind == "background":
        return Edit("background", None, "background", choose(rng, [b for b in BACKGROUNDS if b != scene.background]))
    subject = choose(rng, others)
    return Edit("remove", subject) if kind == "remove" else Edit("local", subject, "color", choose(rng, colors))


def _change(scene: Scene, edit: Edit) -> float:
    """How much an edit of the scene shows: root-mean-square difference in the two worst 8×8 patches."""
    squares = (render(edit.apply(scene)) - render(scene)) ** 2
    return float(np.sqrt(np.sort(squares.reshape(4, 8, 4, 8, 3).mean((1, 3, 4)), axis=None)[-2:].mean()))


def _damage(rng: np.random.Generator, picture: Picture, kind: str, severity: int) -> Picture:
    if kind == "noise":
        return picture + np.float32(_NOISE[severity]) * rng.standard_normal(picture.shape, np.float32)
    if kind == "blur":
        return _blur(picture, _BLUR[severity])
    share, deviation = _BLOCKS[severity]
    size = len(picture) // _BLOCK
    means = picture.reshape(size, _BLOCK, size, _BLOCK, 3).mean((1, 3))
    means = means + np.float32(deviation) * rng.standard_normal(means.shape, np.float32)
    return _mix(picture, means.repeat(_BLOCK, 0).repeat(_BLOCK, 1), share)


def _blur(picture: Picture, sigma: float) -> Picture:
    """Gaussian, as one matrix product along each axis; beyond the border the picture's edge repeats."""
    offset = np.arange(len(picture))[:, None] - np.arange(-8, len(picture) + 8)
    kernel = np.exp(-0.5 * (offset / sigma) ** 2).astype(np.float32)
    kernel /= kernel.sum(1, keepdims=True)
    wide = np.pad(picture, ((8, 8), (8, 8), (0, 0)), mode="edge")
    return np.einsum("yi,ijc,xj->yxc", kernel, wide, kernel, optimize=True)
