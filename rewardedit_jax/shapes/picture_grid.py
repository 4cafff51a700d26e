"""The picture grid of editors: one scene of each edit type in a row, chosen by a rule that picks no winners."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from rewardedit_jax.evaluation.sheets import Sheet
from rewardedit_jax.shapes.examples import ShapesExample
from rewardedit_jax.shapes.render import SIZE
from rewardedit_jax.shapes.scene import EDIT_TYPES

SCALE = 5  # of the pictures: large enough to see their pixels
LEGEND = "f following   p preserving   q quality: scores 0..5 of the oracle judge"
_RULE = "rows: of each edit type, the scene with the median sum of the three scores of"


@dataclass(frozen=True, eq=False)
class Column:
    """Pictures of all scenes under one heading, with their scores if they have any."""

    title: str
    pictures: UInt8[np.ndarray, "n h w 3"]
    scores: Float[np.ndarray, "n 3"] | None = None


def choose_rows(scenes: Sequence[ShapesExample], scores: Float[np.ndarray, "n 3"]) -> list[int]:
    """Indices of the scenes to show: of each edit type, the scene with the median sum of its three scores.

    The scores should be those of a baseline: a choice by the scores of the best column would favour it.
    """
    types, totals = np.asarray([scene.edit_type for scene in scenes]), scores.sum(1)
    of_types = [np.flatnonzero(types == edit_type) for edit_type in EDIT_TYPES]
    return [int(indices[median_index(totals[indices])]) for indices in of_types if len(indices)]


def median_index(totals: Float[np.ndarray, " n"]) -> int:
    """Index of the median. Of an even number it is the lower one in the middle; of equal ones, the earlier is lower."""
    return int(np.argsort(totals, kind="stable")[(len(totals) - 1) // 2])


def score_caption(scores: Float[np.ndarray, "3"]) -> str:
    """The scores of one picture, as the line below it; `LEGEND` explains the letters."""
    return "  ".join(f"{letter} {value:.1f}" for letter, value in zip("fpq", scores, strict=True))


def draw_grid(
    scenes: Sequence[ShapesExample], outputs: Sequence[Column], rows: Sequence[int], ranked_by: str
) -> UInt8[np.ndarray, "h w 3"]:
    """Grid of source, instruction, `outputs` and ideal of the chosen scenes, with scores under each output.

    `ranked_by` names the pictures whose scores `choose_rows` was given, for the legend.
    """
    source, ideal = (Column(name, np.stack([getattr(s, name) for s in scenes])) for name in ("source", "ideal"))
    columns = (source, *outputs, ideal)
    sheet = Sheet(len(rows), len(columns), SCALE * SIZE, heading=34, footer=36, text_width=168)
    sheet.text_heading("instruction")
    sheet.footer(f"{LEGEND}\n{_RULE} {ranked_by}")
    for place, column in enumerate(columns):
        sheet.heading(place, column.title)
        for row, i in enumerate(rows):
            caption = "" if column.scores is None else score_caption(column.scores[i])
            sheet.picture(row, place, Image.fromarray(column.pictures[i]), [caption])
    for row, i in enumerate(rows):
        sheet.text(row, scenes[i].edit_type, scenes[i].instruction)
    return np.asarray(sheet.image)
