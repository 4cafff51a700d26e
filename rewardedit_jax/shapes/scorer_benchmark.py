"""The shapes benchmark of scorers: held-out scenes with four edits each, rated by the oracle.

It measures the calibration of predicted preferences, and the accuracy on pairs and on whole groups of two, three and
four edits (strict: all are in the right order), beside chance and a baseline that prefers the smallest change.
"""

import argparse
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from rewardedit_jax.command_line import local_path, png_file, whole_number
from rewardedit_jax.data.json_files import read_json
from rewardedit_jax.evaluation.charts import draw_reliability, save_figure
from rewardedit_jax.evaluation.experiments.experiment import Results
from rewardedit_jax.evaluation.experiments.table import Samples, Table, make_table
from rewardedit_jax.evaluation.experiments.table_files import save_if_possible
from rewardedit_jax.evaluation.report import Report, Row, sound_share
from rewardedit_jax.evaluation.statistics import Bin, expected_calibration_error, reliability_bins
from rewardedit_jax.scoring.edit_score import EditScore, matrix
from rewardedit_jax.scoring.scorer import Scorer
from rewardedit_jax.shapes.preferences import CANDIDATES, ShapesCandidates, shapes_candidates
from rewardedit_jax.weights.files import write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What is right and what is counted, in each group.
Right = tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]

_OVERALL = 2  # column of `matrix`, after following and quality
_CHANCE = {k: 1 / math.factorial(k) for k in (2, 3, 4)}  # of the right order of k edits
_TIED = 0.5  # outcome of a pair without a preference

# First words of the measures in a report; the last two are lines of every table.
_SCORER, _LEAST_CHANGE, _CHANCE_LINE = "scorer", "least change", "chance"
_STRICT = {f"K = {k}": k for k in _CHANCE}  # columns of whole groups
_ERROR, _ON_TIES = "calibration error", "stated on ties"  # columns of the stated probability
_FIELDS = {_ERROR: "expected_calibration_error", _ON_TIES: "stated_on_ties"}  # column → field of a report's JSON


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
    of_scorer = _accuracies(means[..., _OVERALL], ratings.sum(2))
    for i, name in enumerate(("following", "quality")):  # the first columns of `means`, and those of `ratings`
        of_scorer[name] = _pairs(means[..., i], ratings[..., i])
    found = {_SCORER: of_scorer, _LEAST_CHANGE: _accuracies(least_change(groups), ratings.sum(2))}
    rows = [row for who, samples in found.items() for row in _rows(who, samples, seed)]
    rows += [Row(f"{_CHANCE_LINE}, K = {k}", "sound", share, "") for k, share in _CHANCE.items()]
    stated, outcome = preferences(scores, ratings.sum(2))
    tied = outcome == _TIED
    values = {
        "expected_calibration_error": expected_calibration_error(stated, outcome),
        "reliability": reliability_bins(stated, outcome),
        "stated_on_ties": float(stated[tied].mean()) if tied.any() else math.nan,
        "count": len(groups),
        "samples": {who: {name: (sums.tolist(), counts.tolist()) for name, (sums, counts) in samples.items()}
                    for who, samples in found.items()},
    }  # fmt: skip
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


def _accuracies(scores: Float[np.ndarray, "n 4"], ratings: Float[np.ndarray, "n 4"]) -> dict[str, Right]:
    strict = {name: _strict(scores[:, :k], ratings[:, :k]) for name, k in _STRICT.items()}
    return {"pairs": _pairs(scores, ratings), **strict}


def _pairs(scores: Float[np.ndarray, "n 4"], ratings: Float[np.ndarray, "n 4"]) -> Right:
    """Pairs of unequal ratings. Equal scores count as wrong: they express no preference."""
    first, second = zip(*combinations(range(scores.shape[1]), 2), strict=True)
    wanted, found = (np.sign(values[:, first] - values[:, second]) for values in (ratings, scores))
    return ((wanted != 0) & (found == wanted)).sum(1), (wanted != 0).sum(1)


def _strict(scores: Float[np.ndarray, "n k"], ratings: Float[np.ndarray, "n k"]) -> Right:
    """Whole groups without equal ratings. Equal scores count as wrong: they give no order."""
    distinct = (np.diff(np.sort(ratings, axis=1), axis=1) > 0).all(axis=1)
    ordered = np.take_along_axis(scores, np.argsort(ratings, axis=1), axis=1)
    return (distinct & (np.diff(ordered, axis=1) > 0).all(axis=1)).astype(int), distinct.astype(int)


def _rows(who: str, samples: Mapping[str, Right], seed: int) -> list[Row]:
    """The rows of a report. Their names are those of earlier versions."""
    rows = []
    for name, (right, counted) in samples.items():
        strict, by = name in _STRICT, f"pairs by {name}" if name != "pairs" else name
        # Groups that do not count are left out of the bootstrap, which else might draw no others.
        of = counted > 0 if strict else slice(None)
        measure = f"{who}, {f'strict {name}' if strict else by}"
        rows.append(sound_share(measure, right[of], "groups" if strict else "pairs", seed, counted[of]))
    return rows


def scorer_table(reports: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """One line for each scorer, after the baseline and chance. `reports`: scorer → JSON of its report for each seed."""
    samples = {(name, ""): {**_samples(of_seeds, _SCORER), **_stated(of_seeds)} for name, of_seeds in reports.items()}
    first = next(iter(reports.values()))[0]
    shares = {"pairs": 0.5, **{name: _CHANCE[k] for name, k in _STRICT.items()}}
    chance = {name: Samples.of(np.array([[100 * share]])) for name, share in shares.items()}
    fixed = {_LEAST_CHANGE: _samples([first], _LEAST_CHANGE), _CHANCE_LINE: chance}
    table = make_table(samples, next(iter(samples)), fixed).with_notes(
        f"Percentages on {first['count']} held-out groups of four edits.",
        "Accuracy on pairs of unequal ratings (overall, following, quality) and on whole groups of K edits.",
        "Calibration error: the expected one of the probability that is stated for the edit preferred in a pair; a "
        "pair of equal ratings counts as half right.",
        "Stated on ties: the mean of that probability in pairs of equal ratings, where 50 is right.",
    )
    return replace(table, spec=".1f", show_gains=False)


def _samples(reports: Sequence[Mapping[str, Any]], who: str) -> dict[str, Samples]:
    """Column → percentages in each group, of the scorer or the baseline."""
    found = [report["samples"][who] for report in reports]
    return {
        name: Samples(100 * np.stack([np.asarray(of_seed[name][0], float) for of_seed in found]), np.asarray(counts))
        for name, (_, counts) in found[0].items()
    }


def _stated(reports: Sequence[Mapping[str, Any]]) -> dict[str, Samples]:
    """The columns of the stated probability, which is no mean over groups; the baseline states none."""
    return {
        column: Samples.of(np.array([[_percent(report[field])] for report in reports]))
        for column, field in _FIELDS.items()
    }


def _percent(share: float | None) -> float:
    return math.nan if share is None else 100 * share  # a report's JSON has null for NaN


def report_scorers(workdir: Path, results: Results, count: int) -> tuple[Table, list[Path]]:
    """The table of accuracies, and the last scorer's first seed as reliability.png, which needs matplotlib."""
    reports = {name: [read_json(file) for file in files] for name, files in results.items()}
    last = list(reports)[-1]
    figure = partial(_reliability, reports[last][0], results[last][0].parents[1].name)
    return scorer_table(reports), save_if_possible(figure, workdir / "reliability.png")


def _reliability(report: Mapping[str, Any], name: str) -> "Figure":
    title = f"{name}: expected calibration error {_percent(report['expected_calibration_error']):.1f} %"
    return draw_reliability([Bin(*values) for values in report["reliability"]], title)


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
    several.set_defaults(run=_run_several, own_files=True)
    for parser in (one, several):
        groups = "held-out groups of four (default: %(default)s)"
        parser.add_argument("--count", type=partial(whole_number, least=1), default=256, help=groups)


def _run_one(a: argparse.Namespace) -> Report:
    groups = held_out_groups(a.count)
    return evaluate_scorer(score_groups(Scorer.load(a.model), groups), groups, a.seed)


def _draw_curve(a: argparse.Namespace, report: Report) -> None:
    if a.curve:
        save_figure(_reliability(report.values, Path(a.model).name), a.curve)


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
