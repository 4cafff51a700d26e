"""Measure a model, or a judge, on a benchmark.

  python launch/evaluate.py real_edit --data DIR --model runs/reward --judge replay --store FILE --json out.json
  python launch/evaluate.py shapes --model runs/reward --output runs/reward/evaluation
  python launch/evaluate.py shapes_scorer --model runs/scorer --json out.json --curve reliability.png
  python launch/evaluate.py genai_bench --answers genai_bench/gpt4o/pairwise.json --json out.json
  python launch/evaluate.py imagenhub --ratings imagenhub --answers viescore/gpt4o_0shot --json out.json

real_edit and other benchmarks of editors: the edits are made, and a judge answers questions about each of them.
compare_edits: two reports of such a benchmark, paired over the same items. i2ebench: a judge's stored verdicts.
shapes: edits of held-out scenes of the shapes world, scored by the oracle judge; a model that takes rewards is asked
for several. shapes_questions: the same for instructions in forms that training lacks. shapes_scorer: a scorer's order
of held-out edits, and whether its stated probabilities come true; shapes_scorers: several in one table.
The others are public benchmarks of reward models: of a scorer (--model), scores in a file (--scores), or the answers of
a judge (--answers). `evaluate.py NAME --help` lists the files that a benchmark reads.
"""

import argparse

from rewardedit_jax.command_line import complain_clearly, local_path, png_file, set_up_command, whole_number
from rewardedit_jax.evaluation.charts import require_matplotlib, save_report
from rewardedit_jax.evaluation.editing_benchmarks.command import BENCHMARKS, add_editing_benchmarks
from rewardedit_jax.evaluation.reward_models.command import add_reward_benchmarks
from rewardedit_jax.shapes.editor_benchmark import add_editor_benchmark
from rewardedit_jax.shapes.question_benchmark import add_question_benchmark
from rewardedit_jax.shapes.scorer_benchmark import add_scorer_benchmarks


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    benchmarks = p.add_subparsers(dest="benchmark", required=True)
    add_editor_benchmark(benchmarks)
    add_question_benchmark(benchmarks)
    add_scorer_benchmarks(benchmarks)
    add_reward_benchmarks(benchmarks)
    add_editing_benchmarks(benchmarks)
    for name, parser in benchmarks.choices.items():
        # These have tables and files of their own.
        if name not in ("shapes", "shapes_questions", "shapes_scorers", "compare_edits", *BENCHMARKS):
            parser.add_argument("--json", type=local_path, metavar="FILE", help="file for every number")
            parser.add_argument("--png", type=png_file, metavar="FILE", help="file for a bar chart (extra 'plots')")
            parser.add_argument("--seed", type=whole_number, default=0, help="seed of the bootstrap (default: 0)")
    return p.parse_args()


def main() -> None:
    a = parse()
    set_up_command()
    with complain_clearly(ImportError):
        if getattr(a, "png", None) or getattr(a, "curve", None):
            require_matplotlib()  # now, not after an hour of scoring
        if report := a.run(a):
            print(report.to_text())
            save_report(report, a.json, a.png)  # the chart last: the numbers are out if it fails
            if draw := getattr(a, "draw", None):
                draw(a, report)


if __name__ == "__main__":
    main()
