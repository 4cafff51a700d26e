"""The command line of the benchmarks of editors."""

from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rewardedit_jax.command_line import local_path, png_file, whole_number
from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.editing.settings import SCORES, add_setting_arguments
from rewardedit_jax.evaluation.editing_benchmarks import comparison, i2ebench, sheets
from rewardedit_jax.evaluation.editing_benchmarks.aurora_edits import AURORA_EDITS
from rewardedit_jax.evaluation.editing_benchmarks.benchmark import Benchmark
from rewardedit_jax.evaluation.editing_benchmarks.evaluate import NONE, evaluate, judges_of
from rewardedit_jax.evaluation.editing_benchmarks.gedit_bench import GEDIT_BENCH
from rewardedit_jax.evaluation.editing_benchmarks.hard_edits import HARD_EDITS
from rewardedit_jax.evaluation.editing_benchmarks.imgedit_bench import IMGEDIT_BENCH
from rewardedit_jax.evaluation.editing_benchmarks.magicbrush import MAGICBRUSH, MAGICBRUSH_MULTI_TURN
from rewardedit_jax.evaluation.editing_benchmarks.real_edit import REAL_EDIT
from rewardedit_jax.evaluation.metrics.suite import METRICS
from rewardedit_jax.judging import command as judging
from rewardedit_jax.weights.files import write_json

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_ALL = (REAL_EDIT, GEDIT_BENCH, MAGICBRUSH, MAGICBRUSH_MULTI_TURN, AURORA_EDITS, IMGEDIT_BENCH, HARD_EDITS)
BENCHMARKS = {benchmark.name: benchmark for benchmark in _ALL}


def add_editing_benchmarks(benchmarks: "_SubParsersAction[ArgumentParser]") -> None:
    """Adds a command for each benchmark of editors, their comparison, and stored verdicts."""
    for benchmark in BENCHMARKS.values():
        p = benchmarks.add_parser(benchmark.name, help=benchmark.title)
        _add_edit_arguments(p)
        for name, of_option in benchmark.options.items():
            p.add_argument(f"--{name}", **of_option)
        _add_judge_arguments(p, benchmark)
        _add_metric_arguments(p, benchmark)
        _add_sheet_arguments(p)
        p.set_defaults(run=partial(evaluate, benchmark), own_files=True)
    p = benchmarks.add_parser("compare_edits", help="two systems on one benchmark, paired over the same items")
    p.add_argument(
        "reports", nargs=2, type=Path, metavar="REPORT", help="two files of --json: the first minus the second"
    )
    p.add_argument("--json", type=local_path, metavar="FILE", help="file for every number")
    _add_sheet_arguments(p)
    p.set_defaults(run=run_comparison, own_files=True)
    p = benchmarks.add_parser("i2ebench", help="a judge's stored verdicts on the edits of several editors")
    about = "directory of <task>/<editor>.json, I2EBench's EditEval"
    p.add_argument("--answers", type=Path, metavar="DIR", required=True, help=about)
    p.set_defaults(run=lambda a: i2ebench.evaluate_verdicts(i2ebench.read_verdicts(a.answers), a.seed))


def _add_edit_arguments(p: ArgumentParser) -> None:
    p.add_argument("--data", required=True, type=Path, metavar="DIR", help="the benchmark as published, or prepared")
    made_by = p.add_mutually_exclusive_group(required=True)
    made_by.add_argument("--model", help="the editor: directory, training workdir, hub id, or 'shapes'")
    made_by.add_argument("--targets", action="store_true", help="judge the edited images that the benchmark has")
    made_by.add_argument("--edits", type=Path, metavar="DIR", help="edits that another program made, DIR/KEY.png")
    p.add_argument("--name", help="of the system in reports and contact sheets (default: --model, or --edits)")
    default = "folder of the edits; a run goes on with it (default: --json without its suffix)"
    p.add_argument("--output", type=local_path, metavar="DIR", help=default)
    p.add_argument("--json", type=local_path, metavar="FILE", help="file for every number and every item")
    p.add_argument("--shard", type=judging.shard, metavar="I/N", help="make and judge part I of N, without a report")
    p.add_argument("--reward", **SCORES, help="requested scores 0..5 (default: 5 5 5, where a model takes any)")
    p.add_argument("--seed", type=whole_number, default=0, help="of the first edit; the others count up (default: 0)")
    add_setting_arguments(p)


def _add_judge_arguments(p: ArgumentParser, benchmark: Benchmark) -> None:
    p.add_argument("--judge", required=True, choices=[*judges_of(benchmark), judging.REPLAY, NONE],
                   help="who answers; none: make the edits, to be judged later")  # fmt: skip
    judging.add_model_argument(p, "--judge-model")
    p.add_argument("--judge-base", help="base model of a published scorer, for its tokenizer")
    p.add_argument("--store", type=local_path, metavar="FILE", help="SQLite file of all answers")
    judging.add_question_arguments(p, benchmark.asked)
    if len(benchmark.image_sizes) > 1:
        default = f"how images are scaled for the judge (default: {benchmark.image_sizes[0]}; replay: as stored)"
        p.add_argument("--image-sizes", choices=benchmark.image_sizes, help=default)
    judging.add_endpoint_arguments(p)


def _add_metric_arguments(p: ArgumentParser, benchmark: Benchmark) -> None:
    default = " ".join(benchmark.metrics) or "none"
    p.add_argument("--metrics", nargs="+", choices=METRICS, default=benchmark.metrics, metavar="NAME",
                   help=f"of launch/evaluate.py metrics, besides the judge (default: {default})")  # fmt: skip
    p.add_argument("--weights", type=Path, metavar="DIR", help="folder of the metrics' published weight files")


def _add_sheet_arguments(p: ArgumentParser) -> None:
    p.add_argument("--page", type=local_path, metavar="FILE", help="web page of all items, with filters")
    p.add_argument("--sheet", type=png_file, metavar="FILE", help="picture of one item of each type of edit")


def run_comparison(a: Namespace) -> None:
    """Prints the differences of two reports, and writes them."""
    found = comparison.compare(*a.reports)
    print("\n\n".join(table.to_text() for table in comparison.tables(found)))
    if a.json:
        with atomic_write(a.json) as unfinished:
            write_json(found, unfinished)
    sheets.draw(a.reports, a.page, a.sheet)
