"""Tables of scores: one structure, told as aligned text, as markdown and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from rewardedit_jax.models.reward_condition import PERSPECTIVES

Scores = Float[np.ndarray, "seeds scenes 3"]  # 0..5; the same scenes, from the same noise, in every array


@dataclass(frozen=True)
class Means:
    """Per perspective: a mean over seeds and scenes, and how sure it is."""

    mean: tuple[float, ...]
    error: tuple[float, ...]  # standard error over scenes, of their means over seeds
    spread: tuple[float, ...] | None  # standard deviation over seeds of their means; None for a single seed


@dataclass(frozen=True)
class Row:
    """One editor, asked for one reward."""

    arm: str
    asked: str
    scores: Means
    gain: Means | None  # over the baseline, paired by scene and seed; None for the baseline itself


@dataclass(frozen=True)
class Table:
    """Rows in the order given, and what they are measured on."""

    rows: tuple[Row, ...]
    baseline: str | None
    scenes: int
    seeds: int

    def to_json(self) -> dict[str, Any]:
        return {"perspectives": list(PERSPECTIVES), **asdict(self)}

    def to_text(self) -> str:
        cells = [self._heading(), *self._body()]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:], "", self.caption])

    def to_markdown(self) -> str:
        heading, body = self._heading(), self._body()
        lines = [heading, ["---"] * len(heading), *body]
        return "\n".join([*("| " + " | ".join(cells) + " |" for cells in lines), "", self.caption])

    @property
    def caption(self) -> str:
        measured = f"Oracle's scores 0..5, mean of {self.scenes} held-out scenes"
        if self.seeds > 1:
            told = f"{measured} and {self.seeds} training seeds ± standard deviation over seeds."
        else:
            told = f"{measured}, one training seed ± standard error over scenes."
        return told if self.baseline is None else f'{told} Δ: over "{self.baseline}", same scenes and starting noise.'

    def _heading(self) -> list[str]:
        gains = [] if self.baseline is None else [f"Δ {name}" for name in PERSPECTIVES]
        return ["arm", "asked for", *PERSPECTIVES, *gains]

    def _body(self) -> list[list[str]]:
        return [
            [row.arm, row.asked, *_cells(row.scores), *([] if self.baseline is None else _cells(row.gain, sign="+"))]
            for row in self.rows
        ]


def make_table(scores: Mapping[tuple[str, str], Scores], baseline: tuple[str, str] | None = None) -> Table:
    """A row for each (arm, asked); the others are compared with `baseline`, where it is one of them.

    Raises:
      ValueError: if the arrays differ in seeds or scenes, which cannot be compared in pairs.
    """
    shapes = {array.shape[:2] for array in scores.values()}
    if len(shapes) != 1:
        raise ValueError(f"scores of unequal (seeds, scenes) cannot be compared: {sorted(shapes)}.")
    base = scores.get(baseline)
    rows = tuple(
        Row(*name, means(array), None if base is None or name == baseline else means(array - base))
        for name, array in scores.items()
    )
    (seeds, scenes), told = shapes.pop(), None if base is None else baseline[0]
    return Table(rows, told, scenes, seeds)


def means(scores: Scores) -> Means:
    seeds, scenes, _ = scores.shape
    scores = scores.astype(np.float64)
    of_scenes, of_seeds = scores.mean(0), scores.mean(1)
    return Means(
        mean=tuple(of_seeds.mean(0).tolist()),
        error=tuple((of_scenes.std(0, ddof=1) / np.sqrt(scenes)).tolist()),
        spread=tuple(of_seeds.std(0, ddof=1).tolist()) if seeds > 1 else None,
    )


def falls(table: Table, arm: str, asked: Sequence[str]) -> tuple[bool, ...]:
    """Per perspective: whether the mean score falls strictly along the rewards asked for."""
    means_of = {row.asked: row.scores.mean for row in table.rows if row.arm == arm}
    ordered = np.asarray([means_of[label] for label in asked])
    return tuple(bool(falling) for falling in (np.diff(ordered, axis=0) < 0).all(0))


def _cells(told: Means | None, sign: str = "") -> list[str]:
    if told is None:
        return [""] * len(PERSPECTIVES)
    doubts = told.error if told.spread is None else told.spread
    return [f"{mean:{sign}.2f} ± {doubt:.2f}" for mean, doubt in zip(told.mean, doubts, strict=True)]
