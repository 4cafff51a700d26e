"""Command line of the benchmarks of editors: the arguments of each benchmark, and the function that runs it."""

import argparse
from pathlib import Path

from rewardedit_jax.evaluation.editing_benchmarks import i2ebench
from rewardedit_jax.evaluation.report import Report

# A string, as argparse's class is generic for type checkers only.
_Subparsers = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_editing_benchmarks(benchmarks: _Subparsers) -> None:
    """Adds a parser for each benchmark; its default `run` takes the parsed arguments and returns a `Report`."""
    verdicts = benchmarks.add_parser("i2ebench", help="a judge's stored verdicts on the edits of several editors")
    about = "directory of <task>/<editor>.json, I2EBench's EditEval"
    verdicts.add_argument("--answers", type=Path, metavar="DIR", required=True, help=about)
    verdicts.set_defaults(run=_i2ebench)


def _i2ebench(a: argparse.Namespace) -> Report:
    return i2ebench.evaluate_verdicts(i2ebench.read_verdicts(a.answers), a.seed)
