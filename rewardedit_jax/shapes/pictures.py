"""Picture grids: what several editors made of the same scenes, one scene per row."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from rewardedit_jax.evaluation.sheets import FAINT, INK, PAPER, RULE
from rewardedit_jax.shapes import EDIT_TYPES, ShapesExample

_SCALE = 4  # nearest neighbour: the pixels are the truth
_MARGIN, _GAP = 20, 10
_HEADER, _CAPTION, _FOOTER = 34, 22, 18  # heights: above all rows, under each picture, below all rows
_TEXT_WIDTH = 168
_LETTERS_PER_LINE = 18
_LEGEND = "f following   p preserving   q quality: scores 0..5 of the oracle judge"


@dataclass(frozen=True, eq=False)
class Column:
    """Pictures of all scenes under one heading, with their scores where they were judged."""

    title: str
    pictures: UInt8[np.ndarray, "n h w 3"]
    scores: Float[np.ndarray, "n 3"] | None = None


def choose_rows(scenes: Sequence[ShapesExample], count: int = 8) -> list[int]:
    """Scenes to show: the first of each edit type, then the first of those left. Nobody picks the good ones."""
    types = [scene.edit_type for scene in scenes]
    first = [types.index(edit_type) for edit_type in EDIT_TYPES if edit_type in types]
    rest = [i for i in range(len(scenes)) if i not in first]
    return (first + rest)[:count]


def draw_grid(
    scenes: Sequence[ShapesExample], outputs: Sequence[Column], rows: Sequence[int]
) -> UInt8[np.ndarray, "h w 3"]:
    """Source, instruction, `outputs` and ideal of the chosen scenes; under each output its three scores."""
    source = Column("source", np.stack([scene.source for scene in scenes]))
    ideal = Column("ideal", np.stack([scene.ideal for scene in scenes]))
    side = _SCALE * source.pictures.shape[1]
    sheet = _Sheet(len(rows), 2 + len(outputs), side)
    sheet.heading(sheet.text_left, "instruction")
    for place, column in enumerate((source, *outputs, ideal)):
        sheet.heading(sheet.left(place), column.title)
        for row, i in enumerate(rows):
            sheet.picture(row, place, column.pictures[i], None if column.scores is None else column.scores[i])
    for row, i in enumerate(rows):
        sheet.instruction(row, scenes[i].instruction, scenes[i].edit_type)
    return np.asarray(sheet.image)


class _Sheet:
    """A white page with one column of text after the first column of pictures."""

    def __init__(self, rows: int, columns: int, side: int):
        self.side = side
        self.text_left = _MARGIN + side + _GAP
        width = 2 * _MARGIN + columns * (side + _GAP) + _TEXT_WIDTH
        height = 2 * _MARGIN + _HEADER + rows * self._pitch + _FOOTER
        self.image = Image.new("RGB", (width, height), PAPER)
        self._draw = ImageDraw.Draw(self.image)
        self._bold, self._body, self._small = (ImageFont.load_default(size) for size in (17, 16, 13))
        self._draw.line((_MARGIN, self.top(0) - 9, width - _MARGIN, self.top(0) - 9), RULE)
        self._draw.text((_MARGIN, self.top(rows)), _LEGEND, FAINT, self._small)

    @property
    def _pitch(self) -> int:
        return self.side + _CAPTION + _GAP

    def top(self, row: int) -> int:
        return _MARGIN + _HEADER + row * self._pitch

    def left(self, place: int) -> int:
        return _MARGIN + place * (self.side + _GAP) + (_TEXT_WIDTH + _GAP if place else 0)

    def heading(self, left: int, title: str) -> None:
        self._draw.text((left, _MARGIN), title, INK, self._bold)

    def picture(self, row: int, place: int, pixels: np.ndarray, scores: np.ndarray | None) -> None:
        left, top = self.left(place), self.top(row)
        large = Image.fromarray(pixels).resize((self.side, self.side), Image.Resampling.NEAREST)
        self.image.paste(large, (left, top))
        if scores is not None:
            names = "  ".join(f"{letter} {value:.1f}" for letter, value in zip("fpq", scores, strict=True))
            self._draw.text((left, top + self.side + 3), names, FAINT, self._small)

    def instruction(self, row: int, text: str, edit_type: str) -> None:
        lines = textwrap.fill(text, _LETTERS_PER_LINE)
        self._draw.text((self.text_left, self.top(row) + 2), edit_type, FAINT, self._small)
        self._draw.multiline_text((self.text_left, self.top(row) + 24), lines, INK, self._body, spacing=6)
