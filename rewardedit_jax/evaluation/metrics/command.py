"""The command line of the metrics."""

from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rewardedit_jax.command_line import add_allow_outside, add_skip_bad, local_path, report_bad, whole_number
from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.evaluation.metrics.items import read_items
from rewardedit_jax.evaluation.metrics.measure import measure
from rewardedit_jax.evaluation.metrics.suite import METRICS
from rewardedit_jax.weights.files import write_json

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_metrics(benchmarks: "_SubParsersAction[ArgumentParser]") -> None:
    """Adds the parser of `metrics`; its default `run` takes the parsed arguments, prints and writes the report."""
    parser = benchmarks.add_parser("metrics", help="distances and similarities of edited images")
    lines = "a .jsonl file of source, edited, target (or null), instruction; paths relative to it"
    parser.add_argument("--pairs", type=Path, required=True, metavar="FILE", help=lines)
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder of the networks' published weight files")
    parser.add_argument("--metrics", nargs="+", choices=METRICS, metavar="NAME", help=f"of {', '.join(METRICS)}")
    at_a_time = "pictures at a time (default: %(default)s)"
    parser.add_argument("--batch-size", type=partial(whole_number, least=1), default=8, metavar="N", help=at_a_time)
    parser.add_argument("--json", type=local_path, metavar="FILE", help="file for every number, by metric and item")
    parser.add_argument("--seed", type=whole_number, default=0, help="seed of the bootstrap (default: 0)")
    add_allow_outside(parser)
    add_skip_bad(parser, "bad lines, and items with an image that cannot be read")
    parser.set_defaults(run=_run, own_files=True)


def _run(a: Namespace) -> None:
    items, faults = read_items(a.pairs, a.allow_outside)
    report = measure(items, a.metrics, a.weights, a.batch_size, a.seed)
    print(report.to_text())
    if a.json:
        with atomic_write(a.json) as unfinished:
            write_json({**report.to_json(), "bad_lines": faults}, unfinished)
    failed = [f"{key}: {reason}" for key, reason in report.notes.failed.items()]
    report_bad([*faults, *failed], len(items) + len(faults), "items were not measured", a.skip_bad)
