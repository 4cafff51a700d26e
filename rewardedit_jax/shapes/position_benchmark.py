"""Position bias (EditReward, arXiv:2509.26346, appendix A.8, table 8): does the order of two edits matter?

The paper shows the preferred edit first in all comparisons, then second, and compares the accuracies. A scorer that
scores edits one at a time cannot prefer a position. It is measured all the same, as a batch could mix up its rows. A
judge's stored answers to both orders show its own bias.
"""

import argparse
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from rewardedit_jax.command_line import local_path, whole_number
from rewardedit_jax.data.json_files import read_json
from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.evaluation.experiments.experiment import Results
from rewardedit_jax.evaluation.experiments.table import Estimate, Line, Samples, Table
from rewardedit_jax.evaluation.reward_models.answers import align_swapped, right_by_position
from rewardedit_jax.evaluation.reward_models.genai_bench import read_votes
from rewardedit_jax.evaluation.statistics import bootstrap_interval
from rewardedit_jax.scoring.scorer import Scorer
from rewardedit_jax.shapes.preferences import ShapesCandidates
from rewardedit_jax.shapes.scorer_benchmark import held_out_groups
from rewardedit_jax.weights.files import write_json

FIRST, SECOND = "preferred shown first", "preferred shown second"
GAP = "gap"
_BATCH = 32
_BOOTSTRAP_SEED = 0


def measure_positions(scorer: Scorer, groups: list[ShapesCandidates]) -> dict[str, Any]:
    """Right and counted pairs of each group by the preferred edit's position, and the largest change of a score."""
    forward, backward = (_overall(scorer, groups, order) for order in (slice(None), slice(None, None, -1)))
    ratings = np.stack([group.ratings.sum(1) for group in groups])
    pairs = list(combinations(range(ratings.shape[1]), 2))
    first, second = (np.array(of) for of in zip(*pairs, strict=True))
    wanted = np.sign(ratings[:, first] - ratings[:, second])
    # Listed forward, the first edit of a pair is shown first.
    right = {order: wanted * (scores[:, first] - scores[:, second]) > 0
             for order, scores in (("forward", forward), ("backward", backward))}  # fmt: skip
    shown_first = np.where(wanted > 0, right["forward"], right["backward"])
    shown_second = np.where(wanted > 0, right["backward"], right["forward"])
    decided = wanted != 0
    counts = decided.sum(1).tolist()
    samples = {FIRST: (_count(shown_first & decided), counts), SECOND: (_count(shown_second & decided), counts)}
    return {"count": len(groups), "samples": samples, "largest_change": float(np.abs(forward - backward).max())}


def _count(right: Bool[np.ndarray, "n pairs"]) -> list[int]:
    return right.sum(1).tolist()


def _overall(scorer: Scorer, groups: list[ShapesCandidates], order: slice) -> Float[np.ndarray, "n 4"]:
    """The overall scores of the candidates, which are given to the scorer in this order."""
    edits = [(group.source, edited, group.instruction) for group in groups for edited in group.candidates[order]]
    sources, edited, instructions = zip(*edits, strict=True)
    pictures = [list(map(Image.fromarray, images)) for images in (sources, edited)]
    scores = scorer.score(*pictures, list(instructions), batch_size=_BATCH, improvement=False)
    return np.array([score.overall.mean for score in scores]).reshape(len(groups), -1)[:, order]


def report_positions(
    workdir: Path, results: Results, count: int, *, answers: Path | None = None, swapped: Path | None = None
) -> tuple[Table, list[Path]]:
    """Accuracies by the position of the preferred edit, and their difference, of each arm and of a judge.

    Args:
      answers, swapped: a judge's pairwise.json of GenAI-Bench, and the same for exchanged edits.
    """
    found = {arm: [read_json(file) for file in files] for arm, files in results.items()}
    values = {arm: _positions(*(_samples(reports, name) for name in (FIRST, SECOND))) for arm, reports in found.items()}
    change = max(report["largest_change"] for reports in found.values() for report in reports)
    table = Table(tuple(Line(arm, "", of_arm) for arm, of_arm in values.items())).with_notes(
        f"Accuracy (%) on pairs of unequal ratings in {count} held-out groups of four edits, which the scorer gets in "
        f"both orders. The largest change of a score between the two: {change:.2g}."
    )
    return (_with_judge(table, answers, swapped) if answers else table), []


def _with_judge(table: Table, answers: Path, swapped: Path | None) -> Table:
    votes = read_votes(answers)
    other = align_swapped(votes, read_votes(swapped), swapped) if swapped else None
    positions = _positions(*map(_of_votes, right_by_position(votes, other)))
    orders = "Each comparison counts in both orders" if swapped else "Each comparison has one order only"
    return replace(table, lines=(*table.lines, Line(f"judge: {answers.parent.name}", "", positions))).with_notes(
        "Judge: stored answers to GenAI-Bench, of the votes where people prefer one edit; lost answers are wrong. "
        f"{orders}."
    )


def _samples(reports: list[dict[str, Any]], name: str) -> Samples:
    sums = [report["samples"][name][0] for report in reports]
    return Samples(100 * np.array(sums, float), np.array(reports[0]["samples"][name][1]))


def _of_votes(found: tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]) -> Samples:
    right, counted = found
    return Samples(100 * right[None].astype(float), counted)


def _positions(first: Samples, second: Samples) -> dict[str, Estimate]:
    """Both accuracies and their difference, whose items may count in one of them only."""
    per_seed = tuple(np.subtract(first.estimate().per_seed, second.estimate().per_seed).tolist())
    interval = bootstrap_interval(lambda i: _value(first, i) - _value(second, i), len(first.counts), _BOOTSTRAP_SEED)
    return {
        FIRST: first.estimate(),
        SECOND: second.estimate(),
        GAP: Estimate(float(np.mean(per_seed)), interval, per_seed),
    }


def _value(samples: Samples, items: np.ndarray) -> float:
    return float(samples.sums.mean(0)[items].sum() / max(samples.counts[items].sum(), 1))


def add_position_benchmark(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command `shapes_positions` to launch/evaluate.py."""
    parser = benchmarks.add_parser(
        "shapes_positions", help="whether a scorer's preference depends on the order of edits"
    )
    parser.add_argument("--model", required=True, help="directory, training workdir, hub id, or 'shapes_scorer'")
    parser.add_argument("--output", required=True, type=local_path, metavar="DIR", help="for result.json")
    groups = "held-out groups of four (default: %(default)s)"
    parser.add_argument("--count", type=partial(whole_number, least=1), default=256, help=groups)
    parser.set_defaults(run=_run, own_files=True)


def _run(a: argparse.Namespace) -> None:
    found = measure_positions(Scorer.load(a.model), held_out_groups(a.count))
    with atomic_write(a.output / "result.json") as unfinished:
        write_json(found, unfinished)
    for name, (right, counted) in found["samples"].items():
        print(f"{name}: {100 * sum(right) / max(sum(counted), 1):.2f} % of {sum(counted)} pairs")
