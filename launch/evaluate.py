"""Measure a model, or a judge, on a benchmark.

  python launch/evaluate.py shapes --model runs/reward --output runs/reward/evaluation
  python launch/evaluate.py shapes_scorer --model runs/scorer --json out.json --curve reliability.png
  python launch/evaluate.py shapes_scorers --arm ties runs/a0 runs/a1 --arm "strict only" runs/b0 runs/b1
  python launch/evaluate.py genai_bench --answers genai_bench/gpt4o/pairwise.json --json out.json
  python launch/evaluate.py genai_bench --model runs/scorer --pairs valid_set2_full.json --images genai_bench
  python launch/evaluate.py aurora --model runs/scorer --points valid_aurora_human_ratings_pointwise.json
  python launch/evaluate.py imagenhub --ratings imagenhub --answers viescore/gpt4o_0shot --json out.json
  python launch/evaluate.py editreward_bench --model runs/scorer --groups data/EditReward-Bench

shapes: edits of held-out scenes of the shapes world, asked for reward 5, 3 and 0 where the model takes rewards, scored
by the oracle judge. DIR/result.json gets every score, DIR/pictures.npz every picture.
shapes_scorer: a scorer's order of held-out edits of the shapes world, beside chance and a baseline, and whether its
stated probabilities come true.
shapes_scorers: several scorers in one table, each trained with one seed or more.
The others are public benchmarks of reward models, of a scorer (--model) or of the stored answers of a judge
(--answers): `evaluate.py NAME --help` says which files of the benchmark they read.
"""

import argparse
from pathlib import Path

from rewardedit_jax.command_line import complain_clearly
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.evaluation.reliability import save_reliability
from rewardedit_jax.evaluation.reward_benchmarks.command import add_reward_benchmarks
from rewardedit_jax.evaluation.reward_benchmarks.report import Report
from rewardedit_jax.evaluation.scorer_table import scorer_table
from rewardedit_jax.evaluation.shapes import SETTINGS, evaluate_editor, held_out_scenes, references
from rewardedit_jax.evaluation.shapes_scorer import evaluate_scorer, held_out_groups, score_groups
from rewardedit_jax.evaluation.tables import make_table
from rewardedit_jax.scoring.scorer import Scorer
from rewardedit_jax.weights.files import write_json


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

    several = benchmarks.add_parser("shapes_scorers", help="the same of several scorers, as one table")
    several.add_argument("--arm", required=True, nargs="+", action="append", metavar=("NAME", "DIR"),
                         help="what to call it, and its model of each training seed")  # fmt: skip
    several.add_argument("--count", type=int, default=256, help="held-out groups of four (default: %(default)s)")
    several.add_argument("--json", type=Path, metavar="FILE", help="for the numbers of every seed")
    several.set_defaults(run=evaluate_shapes_scorers)

    add_reward_benchmarks(benchmarks)
    for name, reported in benchmarks.choices.items():
        if name not in ("shapes", "shapes_scorers"):
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


def evaluate_shapes_scorer(a: argparse.Namespace) -> Report:
    groups = held_out_groups(a.count)
    report = evaluate_scorer(score_groups(Scorer.load(a.model), groups), groups, a.seed)
    if a.curve:
        save_reliability(report.values["reliability"], a.model, a.curve)
    return report


def evaluate_shapes_scorers(a: argparse.Namespace) -> None:
    if nameless := [words[0] for words in a.arm if len(words) < 2]:
        raise ValueError(f"--arm {nameless[0]} has no model: give a name, then a directory for each seed.")
    groups = held_out_groups(a.count)
    table = scorer_table(
        {
            name: [evaluate_scorer(score_groups(Scorer.load(model), groups), groups) for model in models]
            for name, *models in a.arm
        }
    )
    if a.json:
        write_json(table.to_json(), a.json)
    print(table.to_text())


def main() -> None:
    a = parse()
    with complain_clearly():
        if report := a.run(a):
            report.write(a.json, a.png)
            print(report.to_text())


if __name__ == "__main__":
    main()
