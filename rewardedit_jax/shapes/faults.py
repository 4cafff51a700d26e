"""Imperfect edits like those of automatic triplets: each perspective has its own faults, with a graded severity.

Severity 5 is clean, 0 is the worst. Faults of following are a partial, a missing or another edit; of preserving, an
unrequested change; of quality, blur, noise or coarse blocks. The first two kinds are bilinear mixtures of drawings, so
every grade lies between two clean pictures.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from rewardedit_jax.shapes.render import render
from rewardedit_jax.shapes.scene import SHAPES, VALUES, Edit, Scene, Shape, choose, sample_edit

CLEAN = 5
# Probability of severity 0, 1, ... 5. More than half of the oracle's scores are then below 5 in each perspective, as in
# RewardEdit-20K (Multi-Reward as Condition, section 3).
_SEVERITIES = (0.08, 0.12, 0.15, 0.17, 0.18, 0.30)
# By severity 0, 1, ... 4. The steps are such that the oracle's score falls with every grade.
_WRONG_SHARE = (0.6, 0.4, 0.0, 0.0, 0.0)  # probability that a failed edit is another edit
_UNREQUESTED = (0.55, 0.42, 0.33, 0.24, 0.15)  # size of a change: rms difference in the two worst 8×8 patches
_BLUR = (1.45, 1.15, 0.95, 0.78, 0.62)  # standard deviation, pixels
_NOISE = (0.16, 0.12, 0.085, 0.055, 0.032)  # standard deviation, colour values in 0..1
# (share of the blocks in the mixture, standard deviation of a block's colour)
_BLOCKS = ((1.0, 0.16), (0.9, 0.12), (0.75, 0.10), (0.6, 0.08), (0.5, 0.065))
_BLOCK = 4  # pixels
_WRONG_SUBJECT_SHARE = 0.2  # probability that another edit is the right change of the wrong shape
_UNREQUESTED_TRIES = 5

Picture = Float[np.ndarray, "32 32 3"]


@dataclass(frozen=True)
class Faults:
    """The faults of one imperfect edit."""

    severity: tuple[int, int, int]  # following, preserving, quality
    made: Edit  # the edit that is made: the one asked for, or another
    done: float  # share of it in the mixture, 0..1
    unrequested: Edit | None  # an unrequested change
    unrequested_share: float  # share of that change in the mixture, 0..1
    damage: str | None  # blur, noise, blocks


def sample_faults(rng: np.random.Generator, scene: Scene, edit: Edit) -> Faults:
    """Draws the three severities independently, then the faults."""
    severity = tuple(rng.choice(len(_SEVERITIES), 3, p=_SEVERITIES).tolist())
    return sample_faults_of(rng, scene, edit, severity)


def sample_faults_of(
    rng: np.random.Generator, scene: Scene, edit: Edit, severity: tuple[int, int, int], wrong_edits: bool = True
) -> Faults:
    """Draws faults of the severities. Without `wrong_edits`, a failed edit is partial or missing, never another one."""
    following, preserving, quality = severity
    made, done = edit, following / CLEAN
    # `wrong_edits` first: the draw is part of the data of examples.
    if wrong_edits and following < CLEAN and rng.random() < _WRONG_SHARE[following]:
        wrong = _wrong_edit(rng, scene, edit)  # None where the type has no other edit: the edit is then partial
        made, done = (wrong, 1.0) if wrong else (edit, done)
    unrequested, share = None, 0.0
    if preserving < CLEAN:
        unrequested, share = _sample_unrequested(rng, scene, edit, made, _UNREQUESTED[preserving])
    damage = None if quality == CLEAN else choose(rng, ("blur", "noise", "blocks"))
    return Faults(severity, made, done, unrequested, share, damage)


def render_faulty(rng: np.random.Generator, scene: Scene, faults: Faults) -> Picture:
    """The imperfect picture, float32; noise may exceed the range 0..1."""
    picture = _mix(render(scene), render(faults.made.apply(scene)), faults.done)
    # Bilinear: the same partial edit of the scene with and without the unrequested change.
    if faults.unrequested:
        other = faults.unrequested.apply(scene)
        also = _mix(render(other), render(faults.made.apply(other)), faults.done)
        picture = _mix(picture, also, faults.unrequested_share)
    return _damage(rng, picture, faults.damage, faults.severity[2]) if faults.damage else picture


def _mix(a: Picture, b: Picture, share: float) -> Picture:
    return a + np.float32(share) * (b - a)


def _wrong_edit(rng: np.random.Generator, scene: Scene, edit: Edit) -> Edit | None:
    """Another edit of the same type that changes the scene; None if there is none."""
    if edit.type == "add":
        return replace(edit, subject=_wrong_addition(rng, scene, edit.subject))
    if edit.subject:
        # A shape that already has the value would stay as it is.
        others = [s for s in scene.shapes if s != edit.subject and edit.would_change(s)]
        if edit.type == "remove":
            return replace(edit, subject=choose(rng, others)) if others else None
        if others and rng.random() < _WRONG_SUBJECT_SHARE:
            return replace(edit, subject=choose(rng, others))
    present = getattr(edit.subject or scene, edit.attribute)
    allowed = scene.free_colors() if edit.attribute == "color" else VALUES[edit.attribute]
    if edit.attribute == "style":
        allowed = ("gray photo",)  # the one style that the oracle can apply to a source, to check its layout
    values = [value for value in allowed if value not in (present, edit.value)]
    return replace(edit, value=choose(rng, values)) if values else None


def _wrong_addition(rng: np.random.Generator, scene: Scene, shape: Shape) -> Shape:
    """The shape in another free cell, or in another colour."""
    cells = [cell for cell in scene.free_cells() if cell != shape.cell]
    if cells and rng.random() < 0.5:
        return replace(shape, cell=choose(rng, cells))
    return replace(shape, color=choose(rng, [color for color in scene.free_colors() if color != shape.color]))


def _sample_unrequested(
    rng: np.random.Generator, scene: Scene, edit: Edit, made: Edit, wanted: float
) -> tuple[Edit, float]:
    """The first large enough one of a few random changes, or the largest, and its share that has the wanted size."""
    before, changes = render(scene), []
    for _ in range(_UNREQUESTED_TRIES):
        change = _any_unrequested(rng, scene, edit, made)
        size = _difference(before, render(change.apply(scene)))
        if size >= wanted:
            return change, wanted / size
        changes.append((size, change))
    return max(changes, key=lambda sized: sized[0])[1], 1.0


def _any_unrequested(rng: np.random.Generator, scene: Scene, edit: Edit, made: Edit) -> Edit:
    """A change that touches neither the cells nor the colours and values of the edits asked for and made."""
    busy = {e.subject.cell for e in (edit, made) if e.subject}
    others = [shape for shape in scene.shapes if shape.cell not in busy]
    cells = [cell for cell in scene.free_cells() if cell not in busy]
    used = {edit.value, made.value} | {e.subject.color for e in (edit, made) if e.subject}
    colors = [color for color in scene.free_colors() if color not in used]
    # Edit types that leave unchanged what the edit asked for changes.
    kinds = ["remove"] * bool(others)
    if others and edit.type != "style":  # some styles hide colours
        kinds.append("local")
    if cells and edit.type != "background":  # a new shape would cover a part of the edited background
        kinds.append("add")
    if edit.type in ("local", "add", "texture"):  # the other edits change or uncover background
        kinds.append("background")
    match choose(rng, kinds):
        case "add":
            return Edit("add", Shape(choose(rng, SHAPES), choose(rng, colors), cell=choose(rng, cells)))
        case "background":
            return sample_edit(rng, scene, "background")
        case "remove":
            return Edit("remove", choose(rng, others))
    return Edit("local", choose(rng, others), "color", choose(rng, colors))


def _difference(a: Picture, b: Picture) -> float:
    """Root-mean-square difference in the two worst 8×8 patches."""
    patches = ((a - b) ** 2).reshape(4, 8, 4, 8, 3).mean((1, 3, 4))
    return float(np.sqrt(np.sort(patches, axis=None)[-2:].mean()))


def _damage(rng: np.random.Generator, picture: Picture, kind: str, severity: int) -> Picture:
    """The picture with noise, blur, or 4×4 blocks of their mean colour and a random deviation."""
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
    """Gaussian blur, as one matrix product along each axis; border pixels repeat."""
    # Eight pixels of padding are more than five standard deviations of the strongest blur.
    offset = np.arange(len(picture))[:, None] - np.arange(-8, len(picture) + 8)
    kernel = np.exp(-0.5 * (offset / sigma) ** 2).astype(np.float32)
    kernel /= kernel.sum(1, keepdims=True)
    wide = np.pad(picture, ((8, 8), (8, 8), (0, 0)), mode="edge")
    return np.einsum("yi,ijc,xj->yxc", kernel, wide, kernel, optimize=True)
