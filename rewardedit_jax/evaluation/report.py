"""What a benchmark found: told as aligned text, as JSON, and as bars with their intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Num
from PIL import Image, ImageDraw, ImageFont

from rewardedit_jax.evaluation.reward_models.bootstrap import bootstrap_interval
from rewardedit_jax.evaluation.sheets import FAINT, INK, PAPER, RULE
from rewardedit_jax.weights.files import write_json

Interval = tuple[float, float]

_MARGIN, _GAP, _NAMES, _LENGTH, _BAR = 24, 12, 330, 420, 18  # pixels; _LENGTH is that of a full bar
_PUBLISHED, _SOUND = (170, 176, 190), (58, 110, 190)


@dataclass(frozen=True)
class Row:
    """One measure under one protocol."""

    measure: str
    protocol: str  # "published" or "sound"
    value: float  # a share or a correlation; NaN where it is not defined
    of: str  # what is counted: "919 votes"
    interval: Interval | None = None  # 95 %, of sound measures


def sound_share(
    measure: str,
    right: Num[np.ndarray, " n"] | Bool[np.ndarray, " n"],
    what: str,
    seed: int,
    counted: Int[np.ndarray, " n"] | None = None,
) -> Row:
    """The share that is right, with its interval over items; tie thresholds are those already chosen.

    Args:
      right: how much of each item is right.
      what: what is counted.
      seed: of the bootstrap.
      counted: how much there is of each item, if it is not one: pairs of a group, which are not independent.
    """
    counted = np.ones(len(right), int) if counted is None else counted
    if not counted.sum():
        return Row(measure, "sound", math.nan, f"0 {what}")
    interval = bootstrap_interval(lambda at: right[at].sum() / counted[at].sum(), len(right), seed)
    return Row(measure, "sound", float(right.sum() / counted.sum()), f"{counted.sum()} {what}", interval)


@dataclass(frozen=True)
class Report:
    """The measures of one benchmark.

    Attributes:
      values: what the JSON file holds beside the rows.
      percent: whether values are told in percent, as accuracies are, or as they are.
    """

    title: str
    rows: Sequence[Row]
    notes: Sequence[str]
    values: Mapping[str, Any]
    percent: bool

    def noting(self, notes: Sequence[str], values: Mapping[str, Any]) -> "Report":
        """This report with more notes and values."""
        return replace(self, notes=[*self.notes, *notes], values={**self.values, **values})

    def to_text(self) -> str:
        heading = ("measure", "protocol", "value", "95 % interval", "of")
        return "\n".join([self.title, "", *aligned(heading, list(map(self._cells, self.rows))), "", *self.notes])

    def to_json(self) -> dict[str, Any]:
        """`values`, and the table as `rows`; null where a number is not defined, which JSON has no word for."""
        rows = [vars(row) for row in self.rows]
        return _plain({**self.values, "title": self.title, "rows": rows, "notes": list(self.notes)})

    def write(self, json_file: Path | None, png_file: Path | None) -> None:
        """Writes the files that are asked for, in directories made where they lack."""
        if json_file:
            write_json(self.to_json(), json_file)
        if png_file:
            png_file.parent.mkdir(parents=True, exist_ok=True)
            self.draw().save(png_file)

    def draw(self) -> Image.Image:
        """A bar for each row, from 0 to 1, and a line over its interval."""
        height = 2 * _MARGIN + 44 + len(self.rows) * (_BAR + _GAP) + 26
        image = Image.new("RGB", (2 * _MARGIN + _NAMES + _LENGTH + 210, height), PAPER)
        draw = ImageDraw.Draw(image)
        bold, body, small = (ImageFont.load_default(size) for size in (17, 14, 12))
        draw.text((_MARGIN, _MARGIN), self.title, INK, bold)
        for i, row in enumerate(self.rows):
            top = _MARGIN + 44 + i * (_BAR + _GAP)
            draw.text((_MARGIN, top), f"{row.measure}, {row.protocol}", INK, body)
            _draw_bar(draw, top, row)
            draw.text((_MARGIN + _NAMES + _LENGTH + _GAP, top), " ".join(self._cells(row)[2:4]), INK, body)
        draw.text((_MARGIN, height - _MARGIN - 14), "lines: 95 % bootstrap intervals", FAINT, small)
        return image

    def _cells(self, row: Row) -> tuple[str, ...]:
        interval = "[{}, {}]".format(*map(self._number, row.interval)) if row.interval else ""
        return row.measure, row.protocol, self._number(row.value), interval, row.of

    def _number(self, value: float) -> str:
        if math.isnan(value):
            return "undefined"
        return f"{100 * value:.2f}" if self.percent else f"{value:.4f}"


def _draw_bar(draw: ImageDraw.ImageDraw, top: int, row: Row) -> None:
    left, middle = _MARGIN + _NAMES, top + _BAR // 2

    def at(value: float) -> float:
        return left + _LENGTH * min(max(value, 0.0), 1.0)

    draw.rectangle((left, top, left + _LENGTH, top + _BAR), outline=RULE)
    if row.value > 0:  # NaN is not
        draw.rectangle((left, top, at(row.value), top + _BAR), _SOUND if row.protocol == "sound" else _PUBLISHED)
    if row.interval:
        low, high = map(at, row.interval)
        draw.line((low, middle, high, middle), INK, 2)
        for end in (low, high):
            draw.line((end, middle - 5, end, middle + 5), INK, 2)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def aligned(heading: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text whose columns stand under each other, the heading ruled off."""
    widths = [max(map(len, column)) for column in zip(heading, *body, strict=True)]
    rows = (heading, ["-" * width for width in widths], *body)
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
