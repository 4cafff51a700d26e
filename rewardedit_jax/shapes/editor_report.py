"""Tables of editors' scores: means with gains over a baseline, and means by edit type."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from rewardedit_jax.evaluation.experiments import table as tables
from rewardedit_jax.evaluation.experiments.table import Key, Line, Samples, Table
from rewardedit_jax.evaluation.report import TextTable
from rewardedit_jax.reward import PERSPECTIVES
from rewardedit_jax.shapes.scene import EDIT_TYPES

Scores = Float[np.ndarray, "seeds scenes 3"]  # 0..5; all arrays of a table: same scenes, same starting noise


def make_table(
    scores: Mapping[Key, Scores],
    baseline: Key | None = None,
    references: Mapping[str, Float[np.ndarray, "scenes 3"]] = MappingProxyType({}),
) -> Table:
    """A line for each reference and each (arm, reward asked for), and a note on each arm with several rewards.

    Args:
      baseline: the key that the others are compared with; ignored where `scores` lacks it.
      references: name → scores of pictures that no editor made.
    """
    fixed = {name: samples_of(array[None]) for name, array in references.items()}
    table = tables.make_table({key: samples_of(array) for key, array in scores.items()}, baseline, fixed)
    scenes = next(iter(scores.values())).shape[1]
    return table.with_notes(f"Oracle's scores 0..5 of {scenes} held-out scenes.", *_claims(table))


def samples_of(scores: Scores) -> dict[str, Samples]:
    """Perspective → its samples."""
    return {name: Samples.of(scores[..., i]) for i, name in enumerate(PERSPECTIVES)}


def _claims(table: Table) -> list[str]:
    """For every arm with several rewards: the perspectives in which it does what Multi-Reward as Condition claims."""
    return [
        _claim(arm, sorted(lines, key=lambda line: line.asked, reverse=True))
        for arm in dict.fromkeys(line.arm for line in table.lines)
        if len(lines := [line for line in table.lines if line.arm == arm]) > 1
    ]


def _claim(arm: str, lines: Sequence[Line]) -> str:
    """Whether the highest reward scores above the baseline, and the score falls with every lower reward."""
    best, gain = lines[0], ""
    if best.over:
        gain = f'above "{best.over[0]}" in {_list(name for name in PERSPECTIVES if best.gains[name].mean > 0)}; '
    falls = (name for name in PERSPECTIVES if (np.diff([line.values[name].mean for line in lines]) < 0).all())
    return f"{arm}: {gain}falls with the reward asked for in {_list(falls)}."


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "no perspective"


@dataclass(frozen=True)
class TypeTable:
    """Means over seeds and over the scenes of each edit type."""

    counts: Mapping[str, int]  # edit type → scenes; all types, in the order of `EDIT_TYPES`
    rows: Mapping[tuple[str, str], Mapping[str, tuple[float, ...]]]  # (arm, asked) → type → mean of each perspective

    def to_json(self) -> dict[str, Any]:
        rows = [{"arm": arm, "asked": asked, "means": found} for (arm, asked), found in self.rows.items()]
        return {"scenes": self.counts, "rows": rows}

    def table(self) -> TextTable:
        heading = ["arm", "asked for", *(f"{name} ({count})" for name, count in self.counts.items())]
        rows = [[*name, *(_slashed(found.get(kind)) for kind in self.counts)] for name, found in self.rows.items()]
        note = f"Means by edit type, number of scenes in brackets: {'/'.join(PERSPECTIVES)}."
        return TextTable(heading, rows, notes=[note])


def make_type_table(scores: Mapping[tuple[str, str], Scores], edit_types: Sequence[str]) -> TypeTable:
    """A row for each (arm, reward asked for). A type without scenes has a column without means."""
    types = np.asarray(edit_types)
    counts = {kind: int((types == kind).sum()) for kind in EDIT_TYPES}
    rows = {
        name: {kind: tuple(_mean(array[:, types == kind])) for kind, count in counts.items() if count}
        for name, array in scores.items()
    }
    return TypeTable(counts, rows)


def _mean(scores: Scores) -> list[float]:
    return scores.mean((0, 1), dtype=np.float64).tolist()


def _slashed(values: Sequence[float] | None) -> str:
    # One decimal: a type has few scenes, and seven columns have to fit a page.
    return "–" if values is None else "/".join(f"{value:.1f}" for value in values)
