"""Reports on editors: a table of scores as text, markdown and JSON, and a grid of pictures, one scene per row."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from rewardedit_jax.evaluation.report import aligned
from rewardedit_jax.evaluation.sheets import FAINT, INK, PAPER, RULE
from rewardedit_jax.reward import PERSPECTIVES
from rewardedit_jax.shapes.example import ShapesExample
from rewardedit_jax.shapes.scene import EDIT_TYPES

Scores = Float[np.ndarray, "seeds scenes 3"]  # 0..5; all arrays of a table: same scenes, same starting noise

# Pixels, except the scale and the letters.
_SCALE = 4  # nearest neighbour, so that every pixel of the model stays visible as it is
_MARGIN, _GAP = 20, 10
_HEADER, _CAPTION, _FOOTER = 34, 22, 18  # heights: above all rows, under each picture, below all rows
_TEXT_WIDTH = 168
_LETTERS_PER_LINE = 18
_LEGEND = "f following   p preserving   q quality: scores 0..5 of the oracle judge"


@dataclass(frozen=True)
class Means:
    """Mean over seeds and scenes of each perspective, with its uncertainty."""

    mean: tuple[float, ...]
    error: tuple[float, ...]  # standard error over scenes, of each scene's mean over seeds
    spread: tuple[float, ...] | None  # standard deviation over seeds, of each seed's mean; None for a single seed


@dataclass(frozen=True)
class EditorRow:
    """One editor, conditioned on one reward."""

    arm: str
    asked: str  # the reward; empty for references, which no editor made
    scores: Means
    gain: Means | None  # difference from the baseline, paired by scene and seed; None for the baseline and references


@dataclass(frozen=True)
class Claim:
    """The perspectives in which conditioning on the reward works as the paper claims."""

    arm: str
    above: tuple[str, ...]  # the highest reward scores above the baseline
    falls: tuple[str, ...]  # the score falls with every lower reward


@dataclass(frozen=True)
class EditorTable:
    """Rows in the order given, and the data that they are measured on."""

    rows: tuple[EditorRow, ...]
    claims: tuple[Claim, ...]
    baseline: str | None
    scenes: int
    seeds: int

    def to_json(self) -> dict[str, Any]:
        return {"perspectives": list(PERSPECTIVES), **asdict(self)}

    def to_text(self) -> str:
        return "\n".join([*aligned(self._heading(), self._body()), "", *self._notes()])

    def to_markdown(self) -> str:
        heading = self._heading()
        lines = ["| " + " | ".join(cells) + " |" for cells in (heading, ["---"] * len(heading), *self._body())]
        return "\n".join([*lines, "", *self._notes()])

    def _heading(self) -> list[str]:
        gains = [f"Δ {name}" for name in PERSPECTIVES] if self.baseline else []
        return ["arm", "asked for", *PERSPECTIVES, *gains]

    def _body(self) -> list[list[str]]:
        cells = [[row.arm, row.asked, *_cells(row.scores, self.seeds)] for row in self.rows]
        gains = [_cells(row.gain, self.seeds, "+") if self.baseline else [] for row in self.rows]
        return [left + right for left, right in zip(cells, gains, strict=True)]

    def _notes(self) -> list[str]:
        uncertainty = "standard deviation over seeds" if self.seeds > 1 else "standard error over scenes"
        compared = f'Δ: over "{self.baseline}", same scenes and starting noise.' if self.baseline else ""
        return [
            f"Oracle's scores 0..5: mean of {self.scenes} held-out scenes and {self.seeds} training seed(s) "
            f"± {uncertainty}.",
            *([compared] if compared else []),
            *(self._sentence(claim) for claim in self.claims),
        ]

    def _sentence(self, claim: Claim) -> str:
        above = f'above "{self.baseline}" in {_listed(claim.above)}; ' if self.baseline else ""
        return f"{claim.arm}: {above}falls with the reward asked for in {_listed(claim.falls)}."


def make_table(
    scores: Mapping[tuple[str, str], Scores],
    baseline: tuple[str, str] | None = None,
    references: Mapping[str, Float[np.ndarray, "scenes 3"]] = MappingProxyType({}),
) -> EditorTable:
    """A row for each reference and each (arm, reward asked for).

    Args:
      scores: (arm, reward asked for) → scores.
      baseline: the key that the others are compared with; ignored where `scores` lacks it.
      references: name → scores of pictures that no editor made.
    Raises:
      ValueError: if the arrays differ in seeds or scenes, so that no pairs can be formed.
    """
    shapes = {array.shape[:2] for array in scores.values()}
    if len(shapes) != 1:
        raise ValueError(f"scores have unequal (seeds, scenes): {sorted(shapes)}; pairs need the same of all arms.")
    base = scores.get(baseline)
    compared = [
        EditorRow(*name, means(array), None if base is None or name == baseline else means(array - base))
        for name, array in scores.items()
    ]
    fixed = [EditorRow(name, "", means(array[None]), None) for name, array in references.items()]
    (seeds, scenes), name = shapes.pop(), None if base is None else baseline[0]
    return EditorTable((*fixed, *compared), _claims(compared), name, scenes, seeds)


def means(scores: Scores) -> Means:
    seeds, scenes, _ = scores.shape
    scores = scores.astype(np.float64)
    of_scenes, of_seeds = scores.mean(0), scores.mean(1)
    return Means(
        mean=tuple(of_seeds.mean(0).tolist()),
        error=tuple((of_scenes.std(0, ddof=1) / np.sqrt(scenes)).tolist()),
        spread=tuple(of_seeds.std(0, ddof=1).tolist()) if seeds > 1 else None,
    )


def _claims(rows: Sequence[EditorRow]) -> tuple[Claim, ...]:
    """A claim for every arm with several rewards, from the highest reward to the lowest."""
    claims = []
    for arm in dict.fromkeys(row.arm for row in rows):
        asked = sorted((row for row in rows if row.arm == arm), key=lambda row: row.asked, reverse=True)
        if len(asked) > 1:
            gain = asked[0].gain.mean if asked[0].gain else (0.0,) * len(PERSPECTIVES)
            steps = np.diff([row.scores.mean for row in asked], axis=0)
            claims.append(Claim(arm, _named(np.asarray(gain) > 0), _named((steps < 0).all(0))))
    return tuple(claims)


def _named(holds: Bool[np.ndarray, "3"]) -> tuple[str, ...]:
    return tuple(name for name, held in zip(PERSPECTIVES, holds, strict=True) if held)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "no perspective"


def _cells(values: Means | None, seeds: int, sign: str = "") -> list[str]:
    if values is None:
        return [""] * len(PERSPECTIVES)
    uncertainties = values.spread if seeds > 1 else values.error
    if uncertainties is None:  # a reference in a table of several seeds: it does not depend on the seed
        return [f"{mean:.2f}" for mean in values.mean]
    return [f"{mean:{sign}.2f} ± {error:.2f}" for mean, error in zip(values.mean, uncertainties, strict=True)]


@dataclass(frozen=True, eq=False)
class Column:
    """Pictures of all scenes under one heading, with their scores if they have any."""

    title: str
    pictures: UInt8[np.ndarray, "n h w 3"]
    scores: Float[np.ndarray, "n 3"] | None = None


def choose_rows(scenes: Sequence[ShapesExample], count: int = 8) -> list[int]:
    """Indices of the scenes to show: the first of each edit type, then the first of the others.

    The rule leaves no room to pick the scenes that look best.
    """
    types = [scene.edit_type for scene in scenes]
    first = [types.index(edit_type) for edit_type in EDIT_TYPES if edit_type in types]
    rest = [i for i in range(len(scenes)) if i not in first]
    return (first + rest)[:count]


def draw_grid(
    scenes: Sequence[ShapesExample], outputs: Sequence[Column], rows: Sequence[int]
) -> UInt8[np.ndarray, "h w 3"]:
    """Grid of source, instruction, `outputs` and ideal of the chosen scenes, with scores under each output."""
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
        # Pillow's built-in font: no font file of the system, so the grid has the same pixels on every machine.
        self._bold, self._body, self._small = (ImageFont.load_default(size) for size in (17, 16, 13))
        self._draw.line((_MARGIN, self.top(0) - 9, width - _MARGIN, self.top(0) - 9), RULE)
        self._draw.text((_MARGIN, self.top(rows)), _LEGEND, FAINT, self._small)

    @property
    def _pitch(self) -> int:
        return self.side + _CAPTION + _GAP

    def top(self, row: int) -> int:
        return _MARGIN + _HEADER + row * self._pitch

    def left(self, place: int) -> int:
        # The text column follows the first column of pictures and shifts all others.
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
