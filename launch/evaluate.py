"""Measure a model on a benchmark.

  python launch/evaluate.py shapes --model runs/reward --output runs/reward/evaluation

shapes: edits of held-out scenes of the shapes world, asked for reward 5, 3 and 0 where the model takes rewards, scored
by the oracle judge. DIR/result.json gets every score, DIR/pictures.npz every picture.
"""

import argparse
from pathlib import Path

from rewardedit_jax.command_line import complain_clearly
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.evaluation.shapes import SETTINGS, evaluate_editor, held_out_scenes, references
from rewardedit_jax.evaluation.tables import make_table


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    benchmarks = p.add_subparsers(dest="benchmark", required=True)
    shapes = benchmarks.add_parser("shapes", help="the embedded world and its oracle")
    shapes.add_argument("--model", required=True, help="directory, training workdir, hub id, or 'shapes'")
    shapes.add_argument("--output", required=True, type=Path, metavar="DIR", help="for the scores and the pictures")
    shapes.add_argument("--count", type=int, default=256, help="held-out scenes (default: %(default)s)")
    shapes.set_defaults(run=evaluate_shapes)
    return p.parse_args()


def evaluate_shapes(a: argparse.Namespace) -> None:
    scenes = held_out_scenes(a.count)
    result = evaluate_editor(Editor.load(a.model), scenes)
    result.save(a.output, {"model": a.model, "settings": dict(SETTINGS)})
    scores = {(a.model, asked): scores[None] for asked, scores in result.scores.items()}
    print(make_table(scores, references=references(scenes)).to_text())


def main() -> None:
    a = parse()
    with complain_clearly():
        a.run(a)


if __name__ == "__main__":
    main()
