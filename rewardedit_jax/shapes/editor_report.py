"""Tables of editors' scores as text, Markdown and JSON: means with gains over a baseline, and means by edit type."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from rewardedit_jax.evaluation.report import TextTable, plus_minus
from rewardedit_jax.reward import PERSPECTIVES
from rewardedit_jax.shapes.scene import EDIT_TYPES

Scores = Float[np.ndarray, "seeds scenes 3"]  # 0..5; all arrays of a table: same scenes, same starting noise


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
    """The perspectives in which conditioning on the reward works as Multi-Reward as Condition claims."""

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
        return self._table().to_text()

    def to_markdown(self) -> str:
        return self._table().to_markdown()

    def _table(self) -> TextTable:
        heading = ["arm", "asked for", *PERSPECTIVES]
        rows = [[row.arm, row.asked, *self._cells(row.scores)] for row in self.rows]
        uncertainty = "standard deviation over seeds" if self.seeds > 1 else "standard error over scenes"
        notes = [
            f"Oracle's scores 0..5: mean of {self.scenes} held-out scenes and {self.seeds} training seed(s) "
            f"± {uncertainty}."
        ]
        if self.baseline:
            heading += [f"Δ {name}" for name in PERSPECTIVES]
            rows = [cells + self._cells(row.gain, "+") for cells, row in zip(rows, self.rows, strict=True)]
            notes.append(f'Δ: over "{self.baseline}", same scenes and starting noise.')
        return TextTable(heading, rows, notes=notes + list(map(self._sentence, self.claims)))

    def _cells(self, values: Means | None, sign: str = "") -> list[str]:
        if values is None:
            return [""] * len(PERSPECTIVES)
        # In a table of several seeds, a reference has no spread: it does not depend on the seed.
        deviations = (values.spread or [None] * len(PERSPECTIVES)) if self.seeds > 1 else values.error
        return [plus_minus(mean, d, f"{sign}.2f") for mean, d in zip(values.mean, deviations, strict=True)]

    def _sentence(self, claim: Claim) -> str:
        above, falls = (", ".join(names) or "no perspective" for names in (claim.above, claim.falls))
        gain = f'above "{self.baseline}" in {above}; ' if self.baseline else ""
        return f"{claim.arm}: {gain}falls with the reward asked for in {falls}."


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
    """
    shapes = {array.shape[:2] for array in scores.values()}
    if len(shapes) != 1:
        raise ValueError(f"scores have unequal (seeds, scenes): {sorted(shapes)}; gains need the same in all arms")
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
            above = np.greater(asked[0].gain.mean if asked[0].gain else (), 0)  # () without a baseline
            falls = (np.diff([row.scores.mean for row in asked], axis=0) < 0).all(0)
            claims.append(Claim(arm, *(tuple(compress(PERSPECTIVES, holds)) for holds in (above, falls))))
    return tuple(claims)


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
