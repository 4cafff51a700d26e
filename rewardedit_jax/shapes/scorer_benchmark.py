"""The shapes benchmark of scorers: held-out scenes with four edits each, rated by the oracle.

It measures the calibration of predicted preferences, and the accuracy on pairs and on whole groups of two, three and
four edits (strict: all are in the right order), beside chance and a baseline that prefers the smallest change.
"""

import argparse
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from rewardedit_jax.command_line import local_path, png_file, whole_number
from rewardedit_jax.data.json_files import read_json
from rewardedit_jax.evaluation.charts import save_reliability
from rewardedit_jax.evaluation.report import Report, Row, TextTable, plus_minus, sound_share
from rewardedit_jax.evaluation.statistics import Bin, expected_calibration_error, reliability_bins
from rewardedit_jax.scoring.edit_score import EditScore, matrix
from rewardedit_jax.scoring.scorer import Scorer
from rewardedit_jax.shapes.preferences import CANDIDATES, ShapesCandidates, shapes_candidates
from rewardedit_jax.weights.files import write_json

_OVERALL = 2  # column of `matrix`, after following and quality
_CHANCE = {k: 1 / math.factorial(k) for k in (2, 3, 4)}  # of the right order of k edits
_TIED = 0.5  # outcome of a pair without a preference

# Column of the table → measure of the report, after the name of the scorer or baseline, or field of its JSON.
_COLUMNS = {
    "pairs": "pairs",
    "following": "pairs by following",
    "quality": "pairs by quality",
    **{f"K = {k}": f"strict K = {k}" for k in _CHANCE},
    "calibration error": "expected_calibration_error",
    "stated on ties": "stated_on_ties",
}
# First words of the measures in a report; the last two are lines of every table.
_SCORER, _LEAST_CHANGE, _CHANCE_LINE = "scorer", "least change", "chance"


def held_out_groups(count: int) -> list[ShapesCandidates]:
    """The first groups of the test split, equal to those of every data set on disk."""
    return [shapes_candidates(i, "test") for i in range(count)]


def score_groups(scorer: Scorer, groups: Sequence[ShapesCandidates], batch_size: int = 32) -> list[list[EditScore]]:
    """The scorer's scores of every candidate, group by group."""
    edits = [(group.source, candidate, group.instruction) for group in groups for candidate in group.candidates]
    sources, edited, instructions = zip(*edits, strict=True)
    pictures = [list(map(Image.fromarray, images)) for images in (sources, edited)]
    scores = scorer.score(*pictures, list(instructions), batch_size=batch_size, improvement=False)
    return [scores[i : i + CANDIDATES] for i in range(0, len(scores), CANDIDATES)]


def least_change(groups: Sequence[ShapesCandidates]) -> Float[np.ndarray, "n 4"]:
    """Scores of the baseline: minus the mean absolute difference between an edit and its source."""
    sources = np.stack([group.source for group in groups])[:, None]
    return -np.abs(np.stack([group.candidates for group in groups]) - sources.astype(np.float32)).mean((2, 3, 4))


def evaluate_scorer(scores: Sequence[Sequence[EditScore]], groups: Sequence[ShapesCandidates], seed: int = 0) -> Report:
    """Accuracies with bootstrap intervals over groups, and the calibration of the predicted preference."""
    means = np.stack([matrix(group) for group in scores])
    ratings = np.stack([group.ratings for group in groups])
    rows = _accuracies(_SCORER, means[..., _OVERALL], ratings.sum(2), seed)
    for i, name in enumerate(("following", "quality")):  # the first columns of `means`, and those of `ratings`
        rows.append(_pairs(f"{_SCORER}, pairs by {name}", means[..., i], ratings[..., i], seed))
    rows += _accuracies(_LEAST_CHANGE, least_change(groups), ratings.sum(2), seed)
    rows += [Row(f"{_CHANCE_LINE}, K = {k}", "sound", share, "") for k, share in _CHANCE.items()]
    stated, outcome = preferences(scores, ratings.sum(2))
    tied = outcome == _TIED
    values = {
        "expected_calibration_error": expected_calibration_error(stated, outcome),
        "reliability": reliability_bins(stated, outcome),
        "stated_on_ties": float(stated[tied].mean()) if tied.any() else math.nan,
        "groups": len(groups),
    }
    notes = [
        f"Expected calibration error of the predicted preference: {100 * values['expected_calibration_error']:.1f} % "
        f"({len(stated)} pairs, ten bins; a pair of equal ratings counts as half right).",
        f"Mean predicted preference in pairs of equal ratings: {100 * values['stated_on_ties']:.1f} % "
        f"({tied.sum()} pairs; 50 is right).",
        "Accuracies leave out pairs of equal ratings; a group of K is the first K edits, if all their ratings differ.",
    ]
    return Report("Scorer on held-out shapes (%)", rows, notes, values, percent=True)


def preferences(
    scores: Sequence[Sequence[EditScore]], ratings: Float[np.ndarray, "n 4"]
) -> tuple[Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]]:
    """The stated probability 0.5..1 of the edit that the scorer prefers, and the outcome, of all pairs.

    The outcome is 1 if that edit has the higher rating, 0 if it has the lower one, and 1/2 if the ratings are equal or
    the scorer prefers neither.
    """
    stated, outcome = [], []
    for group, rated in zip(scores, ratings, strict=True):
        for i, j in combinations(range(len(group)), 2):
            probability = Scorer.prefer(group[i], group[j])
            stated.append(max(probability, 1 - probability))
            outcome.append(_TIED + np.sign(probability - 0.5) * np.sign(rated[i] - rated[j]) / 2)
    return np.array(stated), np.array(outcome)


def _accuracies(name: str, scores: Float[np.ndarray, "n 4"], ratings: Float[np.ndarray, "n 4"], seed: int) -> list[Row]:
    strict = [_strict(f"{name}, strict K = {k}", scores[:, :k], ratings[:, :k], seed) for k in _CHANCE]
    return [_pairs(f"{name}, pairs", scores, ratings, seed), *strict]


def _pairs(name: str, scores: Float[np.ndarray, "n 4"], ratings: Float[np.ndarray, "n 4"], seed: int) -> Row:
    """Accuracy on pairs of unequal ratings. Equal scores count as wrong: they express no preference."""
    first, second = zip(*combinations(range(scores.shape[1]), 2), strict=True)
    wanted, found = (np.sign(values[:, first] - values[:, second]) for values in (ratings, scores))
    right = ((wanted != 0) & (found == wanted)).sum(1)
    return sound_share(name, right, "pairs", seed, counted=(wanted != 0).sum(1))


def _strict(name: str, scores: Float[np.ndarray, "n k"], ratings: Float[np.ndarray, "n k"], seed: int) -> Row:
    """Accuracy on whole groups without equal ratings. Equal scores count as wrong: they give no order."""
    distinct = (np.diff(np.sort(ratings, axis=1), axis=1) > 0).all(axis=1)
    by_rating = np.argsort(ratings[distinct], axis=1)
    ordered = np.take_along_axis(scores[distinct], by_rating, axis=1)
    return sound_share(name, (np.diff(ordered, axis=1) > 0).all(axis=1), "groups", seed)


@dataclass(frozen=True)
class ScorerTable:
    """Percentages by line and column, one for each seed. A baseline has one number and only some of the columns."""

    values: Mapping[str, Mapping[str, tuple[float, ...]]]
    groups: int

    def to_text(self) -> str:
        rows = [[name, *(_cell(line.get(column, ())) for column in _COLUMNS)] for name, line in self.values.items()]
        seeds = max(len(line["pairs"]) for line in self.values.values())
        spread = f"; ± standard deviation over {seeds} training seeds" if seeds > 1 else ""
        notes = (
            f"{self.groups} held-out groups of four edits{spread}.",
            "Accuracy on pairs of unequal ratings (overall, following, quality) and on whole groups of K edits.",
            "Calibration error: the expected one of the probability that is stated for the edit preferred in a "
            "pair; a pair of equal ratings counts as half right.",
            "Stated on ties: the mean of that probability in pairs of equal ratings, where 50 is right.",
        )
        return TextTable(["scorer (%)", *_COLUMNS], rows, notes=notes).to_text()

    def to_json(self) -> dict[str, Any]:
        return {"groups": self.groups, "percent": self.values}


def scorer_table(reports: Mapping[str, Sequence[Mapping[str, Any]]]) -> ScorerTable:
    """One line for each scorer, then the baseline and chance. `reports`: scorer → JSON of its report for each seed."""
    values = {name: _line(of_seeds, _SCORER) for name, of_seeds in reports.items()}
    first = next(iter(reports.values()))[0]
    values[_LEAST_CHANGE] = _line([first], _LEAST_CHANGE)
    values[_CHANCE_LINE] = {"pairs": (50.0,), **{f"K = {k}": (100 * share,) for k, share in _CHANCE.items()}}
    return ScorerTable(values, first["groups"])


def _line(reports: Sequence[Mapping[str, Any]], name: str) -> dict[str, tuple[float, ...]]:
    """Column → percentage in each report, of the columns that the reports have for the scorer or the baseline."""
    # The fields beside the rows are the scorer's: the baseline states no probabilities.
    found = [
        {f"{_SCORER}, {field}": value for field, value in report.items()}
        | {row["measure"]: row["value"] for row in report["rows"]}
        for report in reports
    ]
    measures = {column: f"{name}, {m}" for column, m in _COLUMNS.items() if f"{name}, {m}" in found[0]}
    return {column: tuple(_percent(shares[m]) for shares in found) for column, m in measures.items()}


def _percent(share: float | None) -> float:
    return math.nan if share is None else 100 * share  # a report's JSON has null for NaN


def _cell(values: Sequence[float]) -> str:
    deviation = np.std(values, ddof=1) if len(values) > 1 else None
    return plus_minus(np.mean(values), deviation, ".1f") if values else ""


def report_scorers(workdir: Path, results: Mapping[str, Sequence[Path]], count: int) -> list[Path]:
    """Prints the table, writes it as table.txt and .json, and draws the last scorer's first seed as reliability.png."""
    reports = {name: [read_json(file) for file in files] for name, files in results.items()}
    table = scorer_table(reports)
    files = [workdir / name for name in ("table.txt", "table.json", "reliability.png")]
    files[0].write_text(table.to_text() + "\n", "utf-8")
    write_json(table.to_json(), files[1])
    print(table.to_text())
    last = list(reports)[-1]
    _save_curve(reports[last][0], results[last][0].parents[1].name, files[2])
    return files


def _save_curve(report: Mapping[str, Any], name: str, file: Path) -> None:
    title = f"{name}: expected calibration error {_percent(report['expected_calibration_error']):.1f} %"
    save_reliability([Bin(*values) for values in report["reliability"]], title, file)


def add_scorer_benchmarks(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the commands `shapes_scorer` and `shapes_scorers` to launch/evaluate.py."""
    one = benchmarks.add_parser("shapes_scorer", help="how well a scorer ranks edits of the shapes world")
    one.add_argument("--model", required=True, help="directory, training workdir, hub id, or 'shapes_scorer'")
    one.add_argument("--curve", type=png_file, metavar="FILE", help="file for the reliability curve, a PNG")
    one.set_defaults(run=_run_one, draw=_draw_curve)

    several = benchmarks.add_parser("shapes_scorers", help="the same for several scorers, in one table")
    several.add_argument("--arm", required=True, nargs="+", action="append", metavar=("NAME", "DIR"),
                         help="name in the table, and the model of each training seed")  # fmt: skip
    several.add_argument("--json", type=local_path, metavar="FILE", help="file for the numbers of every seed")
    several.set_defaults(run=_run_several)
    for parser in (one, several):
        groups = "held-out groups of four (default: %(default)s)"
        parser.add_argument("--count", type=partial(whole_number, least=1), default=256, help=groups)


def _run_one(a: argparse.Namespace) -> Report:
    groups = held_out_groups(a.count)
    return evaluate_scorer(score_groups(Scorer.load(a.model), groups), groups, a.seed)


def _draw_curve(a: argparse.Namespace, report: Report) -> None:
    if a.curve:
        _save_curve(report.values, Path(a.model).name, a.curve)


def _run_several(a: argparse.Namespace) -> None:
    if nameless := [words[0] for words in a.arm if len(words) < 2]:
        raise ValueError(f"--arm {nameless[0]} has no model: give a name, then a directory for each seed.")
    names = Counter([*(words[0] for words in a.arm), _LEAST_CHANGE, _CHANCE_LINE])
    if repeated := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"--arm {', '.join(repeated)}: another line of the table has this name; give a new one.")
    groups = held_out_groups(a.count)
    reports = {
        name: [evaluate_scorer(score_groups(Scorer.load(model), groups), groups).to_json() for model in models]
        for name, *models in a.arm
    }
    table = scorer_table(reports)
    print(table.to_text())
    if a.json:
        write_json(table.to_json(), a.json)
