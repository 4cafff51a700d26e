"""Command line of the reward-model benchmarks: the arguments of each benchmark, and the function that runs it.

A benchmark evaluates a scorer on edits (`--model`), scores of these edits in a file (`--scores`), or a judge's answers
in the benchmark's own layout (`--answers`). Invalid combinations of arguments are refused before anything is loaded.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rewardedit_jax.command_line import add_allow_outside, whole_number
from rewardedit_jax.evaluation.report import Report
from rewardedit_jax.evaluation.reward_models import (
    aurora,
    editreward_bench,
    editreward_pairs,
    edits,
    genai_bench,
    imagenhub,
    records,
    viescore,
)
from rewardedit_jax.evaluation.reward_models.answers import align_swapped
from rewardedit_jax.scoring.scorer import Scorer

# A string, as argparse's class is generic for type checkers only.
_Subparsers = "argparse._SubParsersAction[argparse.ArgumentParser]"
_SWAPPED = "with --answers: the same judge's answers with left and right exchanged"


def add_reward_benchmarks(benchmarks: _Subparsers) -> None:
    """Adds a parser for each benchmark; its default `run` takes the parsed arguments and returns a `Report`."""
    votes = _benchmark(benchmarks, "genai_bench", "which of two edits people prefer", _genai_bench)
    _file(votes, "--answers", "a judge's pairwise.json")
    _file(votes, "--swapped", _SWAPPED)
    _file(votes, "--pairs", "for scores: the hub's directory of parquet files, or valid_set2_full.json", "PATH")
    _images(votes)

    pairs = _benchmark(benchmarks, "aurora", "which of two edits people prefer, or how they rate one", _aurora)
    _file(pairs, "--pairs", "valid_aurora_human_ratings_pairwise.json")
    _file(pairs, "--points", "valid_aurora_human_ratings_pointwise.json")
    _images(pairs)

    ratings = _benchmark(benchmarks, "imagenhub", "how people rate edits", _imagenhub)
    _file(ratings, "--ratings", "directory of *_rater<n>.tsv", "DIR")
    _file(ratings, "--answers", "with --ratings: directory of a judge's <model>/{SC,PQ}.json", "DIR")
    _file(ratings, "--results", "for scores, with --ratings: ImagenHub_Text-Guided_IE, the edits themselves", "DIR")
    _file(ratings, "--points", "for scores, instead of --ratings: valid_imagenhub_processed.json")
    _images(ratings)

    groups = _benchmark(benchmarks, "editreward_bench", "how people rank edits", _editreward_bench)
    _file(groups, "--answers", "a judge's answers, as written by inference_<K>pair_hf.py")
    _file(groups, "--swapped", _SWAPPED)
    groups.add_argument("--size", type=int, choices=(2, 3, 4), help="with --answers: K, the edits in a group")
    _file(groups, "--groups", "for scores: EditReward_Bench_<K>pair.json, or the hub's directory", "PATH", nargs="+")
    _images(groups)


def _benchmark(
    benchmarks: _Subparsers, name: str, about: str, run: Callable[[argparse.Namespace], Report]
) -> argparse.ArgumentParser:
    """A parser with the arguments of all benchmarks. launch/evaluate.py adds --json, --png and --seed."""
    parser = benchmarks.add_parser(name, help=about)
    parser.add_argument("--model", metavar="DIR", help="a scorer: directory, training workdir or hub id")
    parser.add_argument("--base", metavar="DIR", help="directory or hub id of the tokenizer, for models without one")
    shared = "devices that share one copy of a model too large for one (default: %(default)s)"
    parser.add_argument("--tensor", type=int, default=1, metavar="N", help=shared)
    _file(parser, "--scores", "instead of --model: scores of the edits, as written by launch/score.py --output")
    skip = "allow N edits that cannot be scored, and --groups with faults; the report lists them (no N: any number)"
    parser.add_argument("--skip-bad", type=whole_number, nargs="?", const=math.inf, default=0, metavar="N", help=skip)
    parser.set_defaults(run=run)
    return parser


def _file(parser: argparse.ArgumentParser, name: str, about: str, kind: str = "FILE", **more: Any) -> None:
    parser.add_argument(name, type=Path, metavar=kind, help=about, **more)


def _images(parser: argparse.ArgumentParser) -> None:
    _file(parser, "--images", "directory that image paths are relative to (default: that of the list)", "DIR")
    add_allow_outside(parser)


def _genai_bench(a: argparse.Namespace) -> Report:
    if _given(a, "answers", "answers swapped", "pairs model", "pairs scores") == "pairs":
        # The hub publishes parquet files, EditReward a JSON list.
        hub = a.pairs.is_dir() or a.pairs.suffix == ".parquet"
        _refuse_scores(a, hub)
        pairs = genai_bench.read_hub_pairs(a.pairs) if hub else _read_pairs(a)
        return aurora.evaluate_pairs(pairs, _score_source(a), "GenAI-Bench", a.seed, a.skip_bad)
    votes = genai_bench.read_votes(a.answers)
    other = align_swapped(votes, genai_bench.read_votes(a.swapped), a.swapped) if a.swapped else None
    return genai_bench.evaluate_votes(votes, other, a.seed)


def _aurora(a: argparse.Namespace) -> Report:
    if _given(a, "pairs model", "pairs scores", "points model", "points scores") == "pairs":
        return aurora.evaluate_pairs(_read_pairs(a), _score_source(a), "AURORA", a.seed, a.skip_bad)
    return _evaluate_points(a, "aurora")


def _imagenhub(a: argparse.Namespace) -> Report:
    scored = ("results ratings model", "results ratings scores", "points model", "points scores")
    form = _given(a, "answers ratings", *scored)
    if form == "points":
        return _evaluate_points(a, "imagenhub")
    ratings = imagenhub.read_ratings(a.ratings)
    if form == "answers":
        answers = viescore.read_answers(a.answers, ratings)
        scores, published = map(imagenhub.judged_aspects, (answers.sound, answers.published))
        notes = [imagenhub.note_unrated(a.answers, ratings), *viescore.note_answers(answers)]
        return imagenhub.evaluate_ratings(ratings, scores, a.seed, published).with_notes(*notes)
    rated = imagenhub.rated_edits(a.results, ratings)
    report = imagenhub.evaluate_edits(rated, ratings, _score_source(a), a.seed, a.skip_bad)
    # The directory of results may have models that were added after the ratings.
    return report.with_notes(imagenhub.note_unrated(a.results, ratings, besides=(imagenhub.SOURCES,)))


def _editreward_bench(a: argparse.Namespace) -> Report:
    if _given(a, "answers size", "answers size swapped", "groups model", "groups scores") == "groups":
        _refuse_scores(a, any(path.is_dir() for path in a.groups))
        # Several paths, as EditReward has a JSON file per size: "overall" needs all of them.
        parts, skip_bad = [], a.skip_bad
        for path in a.groups:
            parts.append(_read_groups(path, a, skip_bad))
            skip_bad -= len(parts[-1].left_out)
        read = editreward_bench.join_groups(parts)
        return editreward_bench.evaluate_groups(read.groups, _score_source(a), a.seed, read.left_out, skip_bad)
    answers = editreward_pairs.read_answers(a.answers, a.size)
    swapped = editreward_pairs.read_answers(a.swapped, a.size) if a.swapped else None
    other = None if swapped is None else align_swapped(answers, swapped, a.swapped)
    return editreward_pairs.evaluate_answers(answers, a.size, other, a.seed)


def _given(a: argparse.Namespace, *forms: str) -> str:
    """The first argument of the form that was given. A form lists arguments that go together, such as "pairs model"."""
    arguments = [form.split() for form in forms]
    given = {name for form in arguments for name in form if getattr(a, name) is not None}
    if found := next((form for form in arguments if given == {*form}), None):
        return found[0]
    # argparse has exclusive groups of single arguments, but not of combinations.
    expected = ", or ".join(" and ".join(f"--{name}" for name in form) for form in arguments)
    raise ValueError(f"arguments do not go together; expected {expected}")


def _read_pairs(a: argparse.Namespace) -> list[aurora.Pair]:
    return aurora.read_pairs(a.pairs, a.images, allow_outside=a.allow_outside)


def _evaluate_points(a: argparse.Namespace, benchmark: str) -> Report:
    points = aurora.read_points(a.points, a.images, benchmark, allow_outside=a.allow_outside)
    return aurora.evaluate_points(points, _score_source(a), benchmark, a.seed, a.skip_bad)


def _read_groups(path: Path, a: argparse.Namespace, skip_bad: int | float) -> editreward_bench.ReadGroups:
    if path.is_dir():
        return editreward_pairs.read_hub_groups(path, skip_bad=skip_bad)
    return editreward_bench.read_groups(path, a.images, skip_bad=skip_bad, allow_outside=a.allow_outside)


def _refuse_scores(a: argparse.Namespace, inside_parquet: bool) -> None:
    # Stored scores are found by file name, and images inside parquet files have none.
    if a.scores and inside_parquet:
        raise ValueError(records.INSIDE_PARQUET)


def _score_source(a: argparse.Namespace) -> edits.ScoreSource:
    # Loaded last: files with faults are reported before a model of several gigabytes is read.
    return records.read_scores(a.scores) if a.scores else Scorer.load(a.model, a.base, tensor=a.tensor)
