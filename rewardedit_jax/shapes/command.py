"""The benchmarks of the embedded world on a command line: the arguments of each, and what it runs."""

import argparse
from pathlib import Path

from rewardedit_jax.command_line import png_file
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.evaluation.charts import save_reliability
from rewardedit_jax.evaluation.report import Report
from rewardedit_jax.scoring.scorer import Scorer
from rewardedit_jax.shapes.editor_benchmark import SETTINGS, evaluate_editor, held_out_scenes, references
from rewardedit_jax.shapes.scorer_benchmark import evaluate_scorer, held_out_groups, score_groups
from rewardedit_jax.shapes.scorer_table import RESERVED, scorer_table
from rewardedit_jax.shapes.tables import make_table
from rewardedit_jax.weights.files import write_json


def add_shapes_benchmarks(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds a command for an editor, one for a scorer, and one for several scorers; as `add_reward_benchmarks`."""
    editor = benchmarks.add_parser("shapes", help="the embedded world and its oracle")
    editor.add_argument("--model", required=True, help="directory, training workdir, hub id, or 'shapes'")
    editor.add_argument("--output", required=True, type=Path, metavar="DIR", help="for the scores and the pictures")
    editor.add_argument("--count", type=int, default=256, help="held-out scenes (default: %(default)s)")
    editor.set_defaults(run=_editor)

    scorer = benchmarks.add_parser("shapes_scorer", help="edits of the embedded world, ordered by a scorer")
    scorer.add_argument("--model", required=True, help="directory, training workdir, hub id, or 'shapes_scorer'")
    scorer.add_argument("--curve", type=png_file, metavar="FILE", help="for the reliability curve, a PNG")
    scorer.set_defaults(run=_scorer)

    several = benchmarks.add_parser("shapes_scorers", help="the same of several scorers, as one table")
    several.add_argument("--arm", required=True, nargs="+", action="append", metavar=("NAME", "DIR"),
                         help="what to call it, and its model of each training seed")  # fmt: skip
    several.add_argument("--json", type=Path, metavar="FILE", help="for the numbers of every seed")
    several.set_defaults(run=_several)
    for parser in (scorer, several):
        parser.add_argument("--count", type=int, default=256, help="held-out groups of four (default: %(default)s)")


def _editor(a: argparse.Namespace) -> None:
    scenes = held_out_scenes(a.count)
    result = evaluate_editor(Editor.load(a.model), scenes)
    result.save(a.output, {"model": a.model, "settings": dict(SETTINGS)})
    scores = {(a.model, asked): scores[None] for asked, scores in result.scores.items()}
    print(make_table(scores, references=references(scenes)).to_text())


def _scorer(a: argparse.Namespace) -> Report:
    groups = held_out_groups(a.count)
    report = evaluate_scorer(score_groups(Scorer.load(a.model), groups), groups, a.seed)
    if a.curve:
        error = report.values["expected_calibration_error"]
        title = f"{Path(a.model).name}: expected calibration error {100 * error:.1f} %"
        save_reliability(report.values["reliability"], title, a.curve)
    return report


def _several(a: argparse.Namespace) -> None:
    if nameless := [words[0] for words in a.arm if len(words) < 2]:
        raise ValueError(f"--arm {nameless[0]} has no model: give a name, then a directory for each seed.")
    names = [words[0] for words in a.arm]
    if twice := sorted({name for name in names if names.count(name) > 1} | RESERVED.intersection(names)):
        raise ValueError(f"--arm {', '.join(twice)}: give every line of the table a name of its own.")
    groups = held_out_groups(a.count)
    table = scorer_table(
        {
            name: [evaluate_scorer(score_groups(Scorer.load(model), groups), groups) for model in models]
            for name, *models in a.arm
        }
    )
    print(table.to_text())
    if a.json:
        write_json(table.to_json(), a.json)
