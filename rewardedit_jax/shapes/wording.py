"""Instructions and feedback texts: about a hundred words, all in lower case and without punctuation.

Every function returns all wordings of one fact; the example draws one of them.
"""

from collections.abc import Iterator
from itertools import product

from rewardedit_jax.shapes.scene import BACKGROUNDS, COLORS, EFFECTS, PLACES, SHAPES, STYLES, TEXTURES, Edit, Shape

Wordings = tuple[str, ...]
NOTHING_FAILED = "None"  # the text of Multi-Reward as Condition for a perfect edit (section 6.4)
# For a score below 5 that no fault of its own perspective explains.
INEXACT = ("the edit is not exact", "the edit is not quite right")
DISTURBED = ("other parts changed slightly", "the other parts are not the same")
UNCLEAN = ("the picture is not clean", "the picture is slightly damaged")


# By attribute or type of the edit. {}: the new value or shape; {it}: what is edited; {at}: a cell.
_INSTRUCTIONS = {
    "background": ("make {it} {}", "change {it} to {}", "paint {it} {}", "turn {it} {}"),
    "effect": ("make it a {} scene", "turn {it} into a {} scene", "make it look like {}", "change the light to {}"),
    "style": ("make it a {}", "turn {it} into a {}", "change the style to a {}", "make it look like a {}"),
    "add": ("add a {} at the {at}", "put a {} in the {at}", "draw a {} at the {at}", "add a {} in the {at} corner"),
    "remove": ("remove {it}", "delete {it}", "take {it} away", "erase {it}"),
    "texture": ("make {it} {}", "give {it} a {} texture", "change the texture of {it} to {}", "turn {it} {}"),
    "color": ("make {it} {}", "change the color of {it} to {}", "paint {it} {}", "turn {it} {}"),
    "form": ("turn {it} into a {}", "make {it} a {}", "replace {it} with a {}", "change {it} to a {}"),
}


def instructions(edit: Edit) -> Wordings:
    """Instructions for the edit, at most sixteen words each."""
    new = _name(edit.subject) if edit.type == "add" else edit.value
    place = PLACES[edit.subject.cell] if edit.subject else ""
    return tuple(
        wording.format(new, it=topic(edit), at=place) for wording in _INSTRUCTIONS[edit.attribute or edit.type]
    )


def edit_missing(edit: Edit) -> Wordings:
    """Feedback for an edit that was not made."""
    it, goal = topic(edit), _goal(edit)
    match edit.type:
        case "add":
            return f"no {_name(edit.subject)} was added", f"{it} is missing"
        case "remove":
            return f"{it} was not removed", f"{it} is still there"
    return f"{it} is not {goal}", f"{it} was not changed"


def edit_partial(edit: Edit, done: float) -> Wordings:
    """Feedback for a partial edit, with the share `done` below 1."""
    degree = "almost" if done > 0.7 else "only partly" if done > 0.3 else "hardly"
    it, goal = topic(edit), _goal(edit)
    match edit.type:
        case "add":
            return f"{it} was {degree} added", f"{it} is {degree} there"
        case "remove":
            return f"{it} was {degree} removed", f"{it} is {degree} gone"
    return f"{it} is {degree} {goal}", f"{it} turned {degree} {goal}"


def edit_wrong(edit: Edit, done: Edit) -> Wordings:
    """Feedback for another edit than the one asked for: another value, another shape or another place."""
    if edit.type == "add":
        if done.subject.cell != edit.subject.cell:
            return f"{topic(edit)} is in the wrong place", f"{topic(edit)} is at the {PLACES[done.subject.cell]}"
        return f"a {_name(done.subject)} was added instead", f"the added {done.subject.form} is {done.subject.color}"
    if edit.type == "remove":
        return f"{topic(done)} was removed instead", f"{topic(done)} is gone instead"
    return f"{topic(done)} turned {_goal(done)} instead", f"{topic(done)} is {_goal(done)} instead"


def unrequested_change(change: Edit, slight: bool) -> Wordings:
    """Feedback for a change that the instruction does not ask for."""
    match change.type:
        case "add":
            kind = "faint" if slight else "new"
            return f"a {kind} {_name(change.subject)} appeared", f"there is a {kind} {_name(change.subject)}"
        case "remove":
            degree = "partly " if slight else ""
            return f"{topic(change)} {degree}disappeared", f"{topic(change)} is {degree}gone"
    degree = "slightly " if slight else ""
    return f"{topic(change)} turned {degree}{_goal(change)}", f"{topic(change)} became {degree}{_goal(change)}"


def damage(kind: str, severity: int) -> Wordings:
    """Feedback for damage of the kind blur, noise or blocks."""
    # By severity 0, 1, ... 4.
    degree = ("very ", "very ", "", "", "slightly ")[severity]
    looks = {"blur": ("blurred", "soft"), "noise": ("noisy", "grainy"), "blocks": ("blocky", "coarse")}
    return tuple(f"the picture is {degree}{look}" for look in looks[kind])


def vocabulary_texts() -> Iterator[str]:
    """Texts with every word and every wording, in a fixed order: the corpus of the tokenizers."""
    yield NOTHING_FAILED
    yield from (*INEXACT, *DISTURBED, *UNCLEAN)
    for kind, severity in product(("blur", "noise", "blocks"), range(5)):
        yield from damage(kind, severity)
    for edit in _all_edits():
        yield from (*instructions(edit), *edit_missing(edit), *edit_wrong(edit, edit))
        for done in (0.2, 0.5, 0.8):  # one for each degree of `edit_partial`
            yield from edit_partial(edit, done)
        for slight in (True, False):
            yield from unrequested_change(edit, slight)
        if edit.type == "add":
            # The opposite cell, for the wordings with a place.
            elsewhere = Edit("add", Shape(edit.subject.form, edit.subject.color, cell=3 - edit.subject.cell))
            yield from edit_wrong(edit, elsewhere)


def _all_edits() -> Iterator[Edit]:
    """Every edit that can be asked for, up to textures and positions that no text mentions."""
    for color, form in product(COLORS, SHAPES):
        shape = Shape(form, color)
        yield Edit("remove", shape)
        yield from (Edit("add", Shape(form, color, cell=cell)) for cell in range(len(PLACES)))
        yield from (Edit("local", shape, "color", new) for new in COLORS if new != color)
        yield from (Edit("local", shape, "form", new) for new in SHAPES if new != form)
        yield from (Edit("texture", shape, "texture", texture) for texture in TEXTURES)
    yield from (Edit("background", None, "background", color) for color in BACKGROUNDS)
    yield from (Edit("global", None, "effect", effect) for effect in EFFECTS)
    yield from (Edit("style", None, "style", style) for style in STYLES)


def _name(shape: Shape) -> str:
    return f"{shape.color} {shape.form}"


def topic(edit: Edit) -> str:
    """The subject of a feedback sentence."""
    if edit.subject is not None:
        return f"the {_name(edit.subject)}"
    return "the background" if edit.type == "background" else "the picture"


def _goal(edit: Edit) -> str:
    """The state that the edit asks for."""
    if edit.type == "global":
        return f"a {edit.value} scene"
    return f"a {edit.value}" if edit.attribute in ("form", "style") else f"{edit.value}"
