"""Measure a model, or a judge, on a benchmark.

  python launch/evaluate.py shapes --model runs/reward --output runs/reward/evaluation
  python launch/evaluate.py shapes_scorer --model runs/scorer --json out.json --curve reliability.png
  python launch/evaluate.py genai_bench --answers genai_bench/gpt4o/pairwise.json --json out.json
  python launch/evaluate.py imagenhub --ratings imagenhub --answers viescore/gpt4o_0shot --json out.json

shapes: edits of held-out scenes of the shapes world, asked for reward 5, 3 and 0 where the model takes rewards, scored
by the oracle judge. DIR/result.json gets every score, DIR/pictures.npz every picture.
shapes_scorer: a scorer's order of held-out edits of the shapes world, beside chance and a baseline, and whether its
stated probabilities come true.
genai_bench: accuracy of a judge's stored answers, of 919 human votes, as the public leaderboard counts.
imagenhub: rank correlation of a judge's stored answers (VIEScore's files) with the raters, and of the raters.
editreward_bench: share of groups of 2, 3 or 4 edits that a judge's stored answers about their pairs order rightly.
"""

import argparse
from pathlib import Path

from rewardedit_jax.command_line import complain_clearly
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.evaluation.reliability import save_reliability
from rewardedit_jax.evaluation.reward_benchmarks import editreward_bench_answers, genai_bench, imagenhub
from rewardedit_jax.evaluation.reward_benchmarks.report import Report
from rewardedit_jax.evaluation.shapes import SETTINGS, evaluate_editor, held_out_scenes, references
from rewardedit_jax.evaluation.shapes_scorer import evaluate_scorer, held_out_groups, score_groups
from rewardedit_jax.evaluation.tables import make_table
from rewardedit_jax.scoring.scorer import Scorer


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    benchmarks = p.add_subparsers(dest="benchmark", required=True)
    shapes = benchmarks.add_parser("shapes", help="the embedded world and its oracle")
    shapes.add_argument("--model", required=True, help="directory, training workdir, hub id, or 'shapes'")
    shapes.add_argument("--output", required=True, type=Path, metavar="DIR", help="for the scores and the pictures")
    shapes.add_argument("--count", type=int, default=256, help="held-out scenes (default: %(default)s)")
    shapes.set_defaults(run=evaluate_shapes)

    scorer = benchmarks.add_parser("shapes_scorer", help="edits of the embedded world, ordered by a scorer")
    scorer.add_argument("--model", required=True, help="directory, training workdir or hub id")
    scorer.add_argument("--count", type=int, default=256, help="held-out groups of four (default: %(default)s)")
    scorer.add_argument("--curve", type=Path, metavar="FILE", help="for the reliability curve, a PNG")
    scorer.set_defaults(run=evaluate_shapes_scorer)

    votes = benchmarks.add_parser("genai_bench", help="which of two edits people prefer")
    votes.add_argument("--answers", required=True, type=Path, metavar="FILE", help="a judge's pairwise.json")
    votes.add_argument("--swapped", type=Path, metavar="FILE", help="its answers with left and right exchanged")
    votes.set_defaults(run=evaluate_genai_bench)

    ratings = benchmarks.add_parser("imagenhub", help="how people rate edits")
    ratings.add_argument("--ratings", required=True, type=Path, metavar="DIR", help="holds *_rater<n>.tsv")
    ratings.add_argument("--answers", required=True, type=Path, metavar="DIR", help="a judge's <model>/{SC,PQ}.json")
    ratings.set_defaults(run=evaluate_imagenhub)

    groups = benchmarks.add_parser("editreward_bench", help="how people rank edits")
    groups.add_argument(
        "--answers", required=True, type=Path, metavar="FILE", help="what inference_<K>pair_hf.py wrote"
    )
    groups.add_argument("--size", required=True, type=int, choices=(2, 3, 4), help="K, edits in a group")
    groups.set_defaults(run=evaluate_editreward_bench)

    for reported in (scorer, votes, ratings, groups):
        reported.add_argument("--json", type=Path, metavar="FILE", help="for every number")
        reported.add_argument("--png", type=Path, metavar="FILE", help="for bars with their intervals")
        reported.add_argument("--seed", type=int, default=0, help="of the intervals (default: %(default)s)")
    return p.parse_args()


def evaluate_shapes(a: argparse.Namespace) -> None:
    scenes = held_out_scenes(a.count)
    result = evaluate_editor(Editor.load(a.model), scenes)
    result.save(a.output, {"model": a.model, "settings": dict(SETTINGS)})
    scores = {(a.model, asked): scores[None] for asked, scores in result.scores.items()}
    print(make_table(scores, references=references(scenes)).to_text())


def evaluate_shapes_scorer(a: argparse.Namespace) -> None:
    groups = held_out_groups(a.count)
    report = evaluate_scorer(score_groups(Scorer.load(a.model), groups), groups, a.seed)
    if a.curve:
        save_reliability(report.values["reliability"], a.model, a.curve)
    tell(report, a)


def evaluate_genai_bench(a: argparse.Namespace) -> None:
    votes = genai_bench.read_votes(a.answers)
    other = genai_bench.turned(votes, genai_bench.read_votes(a.swapped), a.swapped) if a.swapped else None
    tell(genai_bench.evaluate_votes(votes, other, a.seed), a)


def evaluate_imagenhub(a: argparse.Namespace) -> None:
    ratings = imagenhub.read_ratings(a.ratings)
    answers = imagenhub.read_answers(a.answers, ratings)
    tell(imagenhub.evaluate_ratings(ratings, imagenhub.judged_aspects(answers), a.seed), a)


def evaluate_editreward_bench(a: argparse.Namespace) -> None:
    answers = editreward_bench_answers.read_answers(a.answers, a.size)
    tell(editreward_bench_answers.evaluate_answers(answers, a.size, a.seed), a)


def tell(report: Report, a: argparse.Namespace) -> None:
    report.write(a.json, a.png)
    print(report.to_text())


def main() -> None:
    a = parse()
    with complain_clearly():
        a.run(a)


if __name__ == "__main__":
    main()
