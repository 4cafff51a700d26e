"""Several scorers on the same held-out edits of the shapes world: one line each, over training seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewardedit_jax.evaluation.report import Report, aligned

# Column → measure of `shapes_scorer.evaluate_scorer`, after the name of whose scores they are.
_MEASURES = {
    "pairs": "pairs",
    "following": "pairs by following",
    "quality": "pairs by quality",
    **{f"K = {k}": f"strict K = {k}" for k in (2, 3, 4)},
}
# Column → value of the report.
_STATED = {"calibration error": "expected_calibration_error", "stated on ties": "stated_on_ties"}
_BASELINE, _CHANCE = "least change", "chance"
RESERVED = frozenset({_BASELINE, _CHANCE})  # names of lines that every table has


@dataclass(frozen=True)
class ScorerTable:
    """Percentages by line and column: those of every seed; of a baseline one number, and no more than it has."""

    values: Mapping[str, Mapping[str, tuple[float, ...]]]
    groups: int

    def to_text(self) -> str:
        columns = [*_MEASURES, *_STATED]
        body = [[name, *(_cell(of.get(column)) for column in columns)] for name, of in self.values.items()]
        seeds = max(len(of["pairs"]) for of in self.values.values() if "pairs" in of)
        spread = f"; ± standard deviation over {seeds} training seeds" if seeds > 1 else ""
        return "\n".join(
            [
                *aligned(["scorer (%)", *columns], body),
                "",
                f"{self.groups} held-out groups of four edits{spread}.",
                "Ordered rightly: pairs of unequal rating (overall, following, quality), and whole groups of K edits.",
                "Calibration error: expected one, of the probability that is stated for the edit preferred in a pair, "
                "which is half right where both are rated alike.",
                "Stated on ties: that probability in such pairs, where 50 would be right.",
            ]
        )

    def to_json(self) -> dict[str, Any]:
        return {"groups": self.groups, "percent": self.values}


def scorer_table(reports: Mapping[str, Sequence[Report]]) -> ScorerTable:
    """A line for each scorer, of whose trainings there is a report each, then the baseline and chance."""
    values = {name: _over_seeds([_of_scorer(report) for report in of_seeds]) for name, of_seeds in reports.items()}
    first = next(iter(reports.values()))[0]
    found = _found(first)
    values[_BASELINE] = _over_seeds([_columns(found, f"{_BASELINE}, ")])
    values[_CHANCE] = _over_seeds([{"pairs": 50.0} | {f"K = {k}": found[f"{_CHANCE}, K = {k}"] for k in (2, 3, 4)}])
    return ScorerTable(values, first.values["groups"])


def _of_scorer(report: Report) -> dict[str, float]:
    stated = {column: 100 * report.values[value] for column, value in _STATED.items()}
    return _columns(_found(report), "scorer, ") | stated


def _columns(found: Mapping[str, float], whose: str) -> dict[str, float]:
    return {column: found[whose + measure] for column, measure in _MEASURES.items() if whose + measure in found}


def _found(report: Report) -> dict[str, float]:
    return {row.measure: 100 * row.value for row in report.rows}


def _over_seeds(found: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, ...]]:
    return {column: tuple(of[column] for of in found) for column in found[0]}


def _cell(values: Sequence[float] | None) -> str:
    if not values:
        return ""
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")
