"""Results as text, Markdown and JSON: `TextTable` for cells of any kind, `Report` for the measures of a benchmark."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Int, Shaped

from rewardedit_jax.evaluation.statistics import bootstrap_interval, indices_by_value
from rewardedit_jax.listing import MAX_NAMES, list_names

Note = tuple[list[str], dict[str, Any]]  # sentences below a report's table, and the entries of its JSON file


@dataclass(frozen=True)
class TextTable:
    """Cells under a heading, with an optional title above and notes below."""

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    notes: Sequence[str] = ()

    def to_text(self) -> str:
        """The table for a terminal, in aligned columns."""
        return self._between_title_and_notes(aligned(self.heading, self.rows))

    def to_markdown(self) -> str:
        """The table for a README."""
        # Unpadded: a changed number then changes one line of a diff.
        cells = (self.heading, ["---"] * len(self.heading), *self.rows)
        return self._between_title_and_notes(["| " + " | ".join(row) + " |" for row in cells])

    def _between_title_and_notes(self, lines: list[str]) -> str:
        above = [self.title, ""] if self.title else []
        below = ["", *self.notes] if self.notes else []
        return "\n".join([*above, *lines, *below])


def aligned(heading: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text with aligned columns and a rule below the heading."""
    # By characters: "±" and "×" are one wide in a terminal.
    widths = [max(map(len, column)) for column in zip(heading, *body, strict=True)]
    rows = (heading, ["-" * width for width in widths], *body)
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def plus_minus(mean: float, deviation: float | None, spec: str = ".2f") -> str:
    """`3.10 ± 0.25`, or the mean alone where the deviation is None. `spec` formats the mean: "+.2f" for differences."""
    # The sign of a difference says something, that of a deviation nothing.
    return f"{mean:{spec}}" + ("" if deviation is None else f" ± {deviation:{spec.lstrip('+')}}")


@dataclass(frozen=True)
class Row:
    """One measure under one protocol."""

    measure: str
    protocol: str  # "published": computed as in the paper's code; "sound": computed as it should be
    value: float  # share or correlation; NaN where it is undefined
    of: str  # number and kind of the items: "919 votes"
    interval: tuple[float, float] | None = None  # 95 %, for the sound protocol


def sound_share(
    measure: str, right: Shaped[np.ndarray, " n"], what: str, seed: int, counted: Int[np.ndarray, " n"] | None = None
) -> Row:
    """The share of right items, with its bootstrap interval over items.

    Args:
      right: number or share of what is right in each item.
      what: plural noun for what is counted: "pairs".
      counted: number of things counted in each item, 1 by default. The pairs of a group are not independent: the
        bootstrap must resample groups, not pairs.
    """
    counted = np.ones(len(right), int) if counted is None else counted
    if not counted.sum():
        return Row(measure, "sound", math.nan, f"0 {what}")
    interval = bootstrap_interval(lambda drawn: right[drawn].sum() / counted[drawn].sum(), len(right), seed)
    return Row(measure, "sound", float(right.sum() / counted.sum()), f"{counted.sum()} {what}", interval)


@dataclass(frozen=True)
class Report:
    """The measures of one benchmark."""

    title: str
    rows: Sequence[Row]
    notes: Sequence[str]
    values: Mapping[str, Any]  # further entries of the JSON file
    percent: bool  # text shows values in percent (accuracies), not as they are (correlations)

    def with_notes(self, *notes: Note) -> "Report":
        """This report with further notes and their values."""
        sentences = [sentence for more, _ in notes for sentence in more]
        values = {key: value for _, more in notes for key, value in more.items()}
        return replace(self, notes=[*self.notes, *sentences], values={**self.values, **values})

    def table(self) -> TextTable:
        heading = ("measure", "protocol", "value", "95 % interval", "of")
        rows = [(row.measure, row.protocol, self._number(row.value), self._interval(row), row.of) for row in self.rows]
        return TextTable(heading, rows, self.title, self.notes)

    def to_text(self) -> str:
        return self.table().to_text()

    def to_json(self) -> dict[str, Any]:
        """`values` and the table as `rows`."""
        # The names of the fields of `Row` are keys of the file: renaming one breaks readers.
        content = {**self.values, "title": self.title, "rows": self.rows, "notes": self.notes}
        # JSON has no NaN: msgspec writes null.
        return msgspec.json.decode(msgspec.json.encode(content, enc_hook=np.generic.item))

    def label(self, row: Row) -> str:
        """The value of a row and its interval, as text."""
        return f"{self._number(row.value)} {self._interval(row)}".strip()

    def _interval(self, row: Row) -> str:
        return "[{}, {}]".format(*map(self._number, row.interval)) if row.interval else ""

    def _number(self, value: float) -> str:
        if math.isnan(value):
            return "undefined"
        return f"{100 * value:.2f}" if self.percent else f"{value:.4f}"


def note_repeated(items: Sequence[Hashable], verdicts: Sequence[Hashable], what: str) -> Note:
    """Note about equal items, which people judged more than once. `what` is their plural noun, such as "pairs"."""
    found: dict[str, list[list[int]]] = {"contradictory": [], "repeated": []}
    for same in indices_by_value(items).values():
        if len(same) > 1:
            found["contradictory" if len({verdicts[i] for i in same}) > 1 else "repeated"].append(same)
    values = {kind: {what: len(groups), "first": groups[:MAX_NAMES]} for kind, groups in found.items()}
    notes = [
        f"{kind} {what}, {len(groups)}: items {list_names((' = '.join(map(str, same)) for same in groups), '; ')}."
        for kind, groups in found.items()
        if groups
    ]
    if notes:
        # They may be the votes of two people: removing one of them would favour the other.
        notes.append(
            "Repeated: judged more than once with the same verdict. Contradictory: with different verdicts, so that "
            "100 % cannot be reached. Both protocols count every item."
        )
    return notes, values
