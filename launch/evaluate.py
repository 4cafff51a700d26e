"""Measure a model, or a judge, on a benchmark.

  python launch/evaluate.py real_edit --data DIR --model runs/reward --judge replay --store FILE --json out.json
  python launch/evaluate.py compare_edits reward.json plain.json
  python launch/evaluate.py shapes --model runs/reward --output runs/reward/evaluation
  python launch/evaluate.py shapes_scorer --model runs/scorer --json out.json --curve reliability.png
  python launch/evaluate.py genai_bench --answers genai_bench/gpt4o/pairwise.json --json out.json
  python launch/evaluate.py metrics --pairs pairs.jsonl --weights DIR --json out.json

Names with shapes: the shapes world, with its oracle as the judge. real_edit and other benchmarks of editors: edits are
made, judged and counted; compare_edits: two reports, paired; i2ebench: stored verdicts. The others are public
benchmarks of reward models. `evaluate.py NAME --help` lists the files that a benchmark reads.
"""

import argparse

from rewardedit_jax.command_line import complain_clearly, set_up_command
from rewardedit_jax.evaluation.charts import add_report_arguments, require_matplotlib, save_report
from rewardedit_jax.evaluation.editing_benchmarks.command import add_editing_benchmarks
from rewardedit_jax.evaluation.metrics.command import add_metrics
from rewardedit_jax.evaluation.reward_models.command import add_reward_benchmarks
from rewardedit_jax.shapes.editor_benchmark import add_editor_benchmark
from rewardedit_jax.shapes.hard_samples import add_hard_samples
from rewardedit_jax.shapes.position_benchmark import add_position_benchmark
from rewardedit_jax.shapes.question_benchmark import add_question_benchmark
from rewardedit_jax.shapes.scorer_benchmark import add_scorer_benchmarks


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    benchmarks = p.add_subparsers(dest="benchmark", required=True)
    add_editor_benchmark(benchmarks)
    add_question_benchmark(benchmarks)
    add_hard_samples(benchmarks)
    add_scorer_benchmarks(benchmarks)
    add_position_benchmark(benchmarks)
    add_reward_benchmarks(benchmarks)
    add_editing_benchmarks(benchmarks)
    add_metrics(benchmarks)
    for parser in benchmarks.choices.values():
        if not parser.get_default("own_files"):
            add_report_arguments(parser)
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
