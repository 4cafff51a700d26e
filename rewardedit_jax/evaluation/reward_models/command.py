"""The reward-model benchmarks on a command line: the arguments of each, and what it runs.

A benchmark measures a scorer on edits (`--model`), scores of them that are in a file (`--scores`), or what a judge
answered about them in the benchmark's own form (`--answers`). Arguments that do not go together are refused before
anything is loaded.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from rewardedit_jax.evaluation.report import Report
from rewardedit_jax.evaluation.reward_models import editreward_bench_answers, genai_bench, imagenhub
from rewardedit_jax.evaluation.reward_models.editreward_bench import evaluate_groups
from rewardedit_jax.evaluation.reward_models.editreward_bench_groups import ReadGroups, join_groups
from rewardedit_jax.evaluation.reward_models.editreward_bench_hub import read_hub_groups
from rewardedit_jax.evaluation.reward_models.editreward_bench_json import read_groups
from rewardedit_jax.evaluation.reward_models.edits import INSIDE_PARQUET, Judge, note_transparent, score_edits
from rewardedit_jax.evaluation.reward_models.genai_bench_hub import read_hub_pairs
from rewardedit_jax.evaluation.reward_models.imagenhub_results import SOURCES, rated_edits, scored_aspects
from rewardedit_jax.evaluation.reward_models.pairs import Pair, evaluate_pairs, read_pairs
from rewardedit_jax.evaluation.reward_models.points import evaluate_points, read_points
from rewardedit_jax.evaluation.reward_models.stored_scores import read_scores
from rewardedit_jax.evaluation.reward_models.votes import turned
from rewardedit_jax.scoring.scorer import Scorer

_SWAPPED = "with --answers: the same judge's answers with left and right exchanged"


def add_reward_benchmarks(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds a parser for each benchmark, whose `run` takes its arguments and returns a `Report`."""
    votes = _benchmark(benchmarks, "genai_bench", "which of two edits people prefer", _genai_bench)
    _file(votes, "--answers", "a judge's pairwise.json")
    _file(votes, "--swapped", _SWAPPED)
    _file(votes, "--pairs", "for a scorer: the hub's folder of parquet, or valid_set2_full.json", "PATH")
    _images(votes)

    aurora = _benchmark(benchmarks, "aurora", "which of two edits people prefer, or how they rate one", _aurora)
    _file(aurora, "--pairs", "valid_aurora_human_ratings_pairwise.json")
    _file(aurora, "--points", "valid_aurora_human_ratings_pointwise.json")
    _images(aurora)

    ratings = _benchmark(benchmarks, "imagenhub", "how people rate edits", _imagenhub)
    _file(ratings, "--ratings", "the folder of *_rater<n>.tsv", "DIR")
    _file(ratings, "--answers", "a judge's <model>/{SC,PQ}.json", "DIR")
    _file(ratings, "--results", "for a scorer, with --ratings: ImagenHub_Text-Guided_IE, the edits themselves", "DIR")
    _file(ratings, "--points", "for a scorer instead: valid_imagenhub_processed.json")
    _images(ratings)

    groups = _benchmark(benchmarks, "editreward_bench", "how people rank edits", _editreward_bench)
    _file(groups, "--answers", "of a judge: what inference_<K>pair_hf.py wrote")
    _file(groups, "--swapped", _SWAPPED)
    groups.add_argument("--size", type=int, choices=(2, 3, 4), help="for --answers: K, edits in a group")
    groups.add_argument(
        "--groups", type=Path, nargs="+", metavar="PATH", help="EditReward_Bench_<K>pair.json, or the hub's folder"
    )
    groups.add_argument(
        "--skip-bad",
        action="store_true",
        help="of --groups, leave out those with faults (contradictory, incomplete or unknown rankings); the report "
        "counts them",
    )
    _images(groups)


def _benchmark(
    benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    about: str,
    run: Callable[[argparse.Namespace], Report],
) -> argparse.ArgumentParser:
    parser = benchmarks.add_parser(name, help=about)
    parser.add_argument("--model", metavar="DIR", help="a scorer: directory, training workdir or hub id")
    parser.add_argument("--base", metavar="DIR", help="where the tokenizer is, if the model has none: published ones")
    parser.add_argument(
        "--tensor", type=int, default=1, metavar="N", help="devices that share one copy of a model too large for one"
    )
    _file(parser, "--scores", "instead of a scorer: what launch/score.py --output wrote about the edits")
    parser.set_defaults(run=run)
    return parser


def _file(parser: argparse.ArgumentParser, name: str, about: str, kind: str = "FILE") -> None:
    parser.add_argument(name, type=Path, metavar=kind, help=about)


def _images(parser: argparse.ArgumentParser) -> None:
    _file(parser, "--images", "what image paths are relative to (default: the folder of the file)", "DIR")


def _genai_bench(a: argparse.Namespace) -> Report:
    if _given(a, *_answered("answers"), *_judged("pairs")) == "pairs":
        hub = a.pairs.is_dir() or a.pairs.suffix == ".parquet"
        _refuse_scores(a, hub)
        pairs = read_hub_pairs(a.pairs) if hub else _listed_pairs(a)
        return evaluate_pairs(pairs, _judge(a), "GenAI-Bench", a.seed)
    votes = genai_bench.read_votes(a.answers)
    other = turned(votes, genai_bench.read_votes(a.swapped), a.swapped) if a.swapped else None
    return genai_bench.evaluate_votes(votes, other, a.seed)


def _aurora(a: argparse.Namespace) -> Report:
    if _given(a, *_judged("pairs"), *_judged("points")) == "pairs":
        return evaluate_pairs(_listed_pairs(a), _judge(a), "AURORA", a.seed)
    return _points(a, "aurora")


def _imagenhub(a: argparse.Namespace) -> Report:
    way = _given(a, ("ratings", "answers"), *_judged("results", "ratings"), *_judged("points"))
    if way == "points":
        return _points(a, "imagenhub")
    ratings = imagenhub.read_ratings(a.ratings)
    if way == "results":
        edits, judge = rated_edits(a.results, ratings), _judge(a)
        report = imagenhub.evaluate_ratings(ratings, scored_aspects(score_edits(judge, edits), ratings), a.seed)
        report = report.noting(*imagenhub.note_unrated(a.results, ratings, besides=(SOURCES,)))
        return report.noting(*note_transparent(judge, edits))
    answers = imagenhub.read_answers(a.answers, ratings)
    report = imagenhub.evaluate_ratings(ratings, imagenhub.judged_aspects(answers), a.seed)
    return report.noting(*imagenhub.note_unrated(a.answers, ratings))


def _editreward_bench(a: argparse.Namespace) -> Report:
    if _given(a, *_answered("answers", "size"), *_judged("groups")) == "groups":
        _refuse_scores(a, any(path.is_dir() for path in a.groups))
        read = join_groups([_groups(path, a) for path in a.groups])
        return evaluate_groups(read.groups, _judge(a), a.seed, read.left_out)
    answers = editreward_bench_answers.read_answers(a.answers, a.size)
    swapped = editreward_bench_answers.read_answers(a.swapped, a.size) if a.swapped else None
    other = None if swapped is None else turned(answers, swapped, a.swapped)
    return editreward_bench_answers.evaluate_answers(answers, a.size, other, a.seed)


def _answered(*answers: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a judge answered, in one order of the edits or in both."""
    return answers, (*answers, "swapped")


def _judged(*edits: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The edits that these arguments tell of, by a scorer or by scores that are there."""
    return (*edits, "model"), (*edits, "scores")


def _given(a: argparse.Namespace, *ways: tuple[str, ...]) -> str:
    """The first argument of the one way whose arguments are all there, and no other way's.

    Raises:
      ValueError: naming the ways there are.
    """
    given = {name for way in ways for name in way if getattr(a, name) is not None}
    for way in ways:
        if given == set(way):
            return way[0]
    raise ValueError(f"give {', or '.join(' and '.join(f'--{name}' for name in way) for way in ways)}.")


def _listed_pairs(a: argparse.Namespace) -> list[Pair]:
    return read_pairs(a.pairs, a.images or a.pairs.parent)


def _points(a: argparse.Namespace, benchmark: str) -> Report:
    points = read_points(a.points, a.images or a.points.parent, benchmark)
    return evaluate_points(points, _judge(a), benchmark, a.seed)


def _groups(path: Path, a: argparse.Namespace) -> ReadGroups:
    if path.is_dir():
        return read_hub_groups(path, skip_bad=a.skip_bad)
    return read_groups(path, a.images or path.parent, skip_bad=a.skip_bad)


def _refuse_scores(a: argparse.Namespace, inside_parquet: bool) -> None:
    if a.scores and inside_parquet:
        raise ValueError(INSIDE_PARQUET)


def _judge(a: argparse.Namespace) -> Judge:
    return read_scores(a.scores) if a.scores else Scorer.load(a.model, a.base, tensor=a.tensor)
