"""Tables of scores: one structure, told as aligned text, as markdown and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from rewardedit_jax.evaluation.report import aligned
from rewardedit_jax.reward import PERSPECTIVES

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
    asked: str  # empty for references, which no editor made
    scores: Means
    gain: Means | None  # over the baseline, paired by scene and seed; None where there is nothing to compare


@dataclass(frozen=True)
class Claim:
    """In which perspectives an arm does what rewards are for."""

    arm: str
    above: tuple[str, ...]  # the highest reward scores above the baseline
    falls: tuple[str, ...]  # the score falls with every step down of the reward asked for


@dataclass(frozen=True)
class Table:
    """Rows in the order given, and what they are measured on."""

    rows: tuple[Row, ...]
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
        doubt = "standard deviation over seeds" if self.seeds > 1 else "standard error over scenes"
        compared = f'Δ: over "{self.baseline}", same scenes and starting noise.' if self.baseline else ""
        return [
            f"Oracle's scores 0..5: mean of {self.scenes} held-out scenes and {self.seeds} training seed(s) ± {doubt}.",
            *([compared] if compared else []),
            *(self._told(claim) for claim in self.claims),
        ]

    def _told(self, claim: Claim) -> str:
        above = f'above "{self.baseline}" in {_listed(claim.above)}; ' if self.baseline else ""
        return f"{claim.arm}: {above}falls with the reward asked for in {_listed(claim.falls)}."


def make_table(
    scores: Mapping[tuple[str, str], Scores],
    baseline: tuple[str, str] | None = None,
    references: Mapping[str, Float[np.ndarray, "scenes 3"]] = MappingProxyType({}),
) -> Table:
    """A row for each reference and each (arm, asked); the latter are compared with `baseline`, if it is one of them.

    Raises:
      ValueError: if the arrays differ in seeds or scenes, which cannot be compared in pairs.
    """
    shapes = {array.shape[:2] for array in scores.values()}
    if len(shapes) != 1:
        raise ValueError(f"scores of unequal (seeds, scenes) cannot be compared: {sorted(shapes)}.")
    base = scores.get(baseline)
    compared = [
        Row(*name, means(array), None if base is None or name == baseline else means(array - base))
        for name, array in scores.items()
    ]
    fixed = [Row(name, "", means(array[None]), None) for name, array in references.items()]
    (seeds, scenes), told = shapes.pop(), None if base is None else baseline[0]
    return Table((*fixed, *compared), _claims(compared), told, scenes, seeds)


def means(scores: Scores) -> Means:
    seeds, scenes, _ = scores.shape
    scores = scores.astype(np.float64)
    of_scenes, of_seeds = scores.mean(0), scores.mean(1)
    return Means(
        mean=tuple(of_seeds.mean(0).tolist()),
        error=tuple((of_scenes.std(0, ddof=1) / np.sqrt(scenes)).tolist()),
        spread=tuple(of_seeds.std(0, ddof=1).tolist()) if seeds > 1 else None,
    )


def _claims(rows: Sequence[Row]) -> tuple[Claim, ...]:
    """Of every arm that was asked for several rewards."""
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


def _cells(told: Means | None, seeds: int, sign: str = "") -> list[str]:
    if told is None:
        return [""] * len(PERSPECTIVES)
    doubts = told.spread if seeds > 1 else told.error
    if doubts is None:  # a reference among several seeds: the same for all
        return [f"{mean:.2f}" for mean in told.mean]
    return [f"{mean:{sign}.2f} ± {doubt:.2f}" for mean, doubt in zip(told.mean, doubts, strict=True)]
