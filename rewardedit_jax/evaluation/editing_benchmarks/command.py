"""The commands of launch/evaluate.py that measure editors: edits are made, judged and counted."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewardedit_jax.command_line import local_path, png_file, report_bad, whole_number
from rewardedit_jax.data.encoded import digest_texts
from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.editing.editor import BEST, Asked, Editor
from rewardedit_jax.editing.settings import SCORES, add_setting_arguments, read_settings
from rewardedit_jax.evaluation.editing_benchmarks import comparison, i2ebench, sheets
from rewardedit_jax.evaluation.editing_benchmarks.aurora_edits import AURORA_EDITS
from rewardedit_jax.evaluation.editing_benchmarks.benchmark import Benchmark, Item
from rewardedit_jax.evaluation.editing_benchmarks.counts import Result, count, tables
from rewardedit_jax.evaluation.editing_benchmarks.edit_folder import (
    EDITS,
    Edits,
    collect_sources,
    find_all,
    keep_settings,
    make_all,
    write_lists,
)
from rewardedit_jax.evaluation.editing_benchmarks.gedit_bench import GEDIT_BENCH
from rewardedit_jax.evaluation.editing_benchmarks.imgedit_bench import IMGEDIT_BENCH
from rewardedit_jax.evaluation.editing_benchmarks.magicbrush import MAGICBRUSH, MAGICBRUSH_MULTI_TURN
from rewardedit_jax.evaluation.editing_benchmarks.outcomes import Outcome, read_outcomes
from rewardedit_jax.evaluation.editing_benchmarks.outputs import look_at
from rewardedit_jax.evaluation.editing_benchmarks.real_edit import REAL_EDIT
from rewardedit_jax.evaluation.editing_benchmarks.results import save_results
from rewardedit_jax.judging import command as judging
from rewardedit_jax.judging.costs import describe_usage
from rewardedit_jax.judging.endpoint import EndpointJudge
from rewardedit_jax.judging.judges import Judge
from rewardedit_jax.judging.store import Store
from rewardedit_jax.listing import count_noun, list_names
from rewardedit_jax.reward import Reward
from rewardedit_jax.weights.files import write_json

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_ALL = (REAL_EDIT, GEDIT_BENCH, MAGICBRUSH, MAGICBRUSH_MULTI_TURN, AURORA_EDITS, IMGEDIT_BENCH)
BENCHMARKS = {benchmark.name: benchmark for benchmark in _ALL}
_FIRST_FAILURES = 10  # that are printed


def add_editing_benchmarks(benchmarks: "_SubParsersAction[ArgumentParser]") -> None:
    """Adds a command for each benchmark of editors, their comparison, and stored verdicts."""
    for benchmark in BENCHMARKS.values():
        p = benchmarks.add_parser(benchmark.name, help=benchmark.title)
        _add_edit_arguments(p)
        _add_judge_arguments(p, benchmark)
        _add_sheet_arguments(p)
        p.set_defaults(run=partial(run, benchmark))
    p = benchmarks.add_parser("compare_edits", help="two systems on one benchmark, paired over the same items")
    p.add_argument(
        "reports", nargs=2, type=Path, metavar="REPORT", help="two files of --json: the first minus the second"
    )
    p.add_argument("--json", type=local_path, metavar="FILE", help="file for every number")
    _add_sheet_arguments(p)
    p.set_defaults(run=run_comparison)
    p = benchmarks.add_parser("i2ebench", help="a judge's stored verdicts on the edits of several editors")
    about = "directory of <task>/<editor>.json, I2EBench's EditEval"
    p.add_argument("--answers", type=Path, metavar="DIR", required=True, help=about)
    p.set_defaults(run=lambda a: i2ebench.evaluate_verdicts(i2ebench.read_verdicts(a.answers), a.seed))


def _add_edit_arguments(p: ArgumentParser) -> None:
    p.add_argument("--data", required=True, type=Path, metavar="DIR", help="the benchmark as published, or prepared")
    made_by = p.add_mutually_exclusive_group(required=True)
    made_by.add_argument("--model", help="the editor: directory, training workdir, hub id, or 'shapes'")
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
    p.add_argument("--judge", required=True, choices=[*_judges(benchmark), judging.REPLAY])
    judging.add_model_argument(p, "--judge-model")
    p.add_argument("--judge-base", help="base model of a published scorer, for its tokenizer")
    p.add_argument("--store", required=True, type=local_path, metavar="FILE", help="SQLite file of all answers")
    judging.add_question_arguments(p, benchmark.asked)
    if len(benchmark.image_sizes) > 1:
        default = f"how images are scaled for the judge (default: {benchmark.image_sizes[0]}; replay: as stored)"
        p.add_argument("--image-sizes", choices=benchmark.image_sizes, help=default)
    judging.add_endpoint_arguments(p)


def _add_sheet_arguments(p: ArgumentParser) -> None:
    p.add_argument("--page", type=local_path, metavar="FILE", help="web page of all items, with filters")
    p.add_argument("--sheet", type=png_file, metavar="FILE", help="picture of one item of each type of edit")


def _judges(benchmark: Benchmark) -> Mapping[str, judging.MakeJudge]:
    ask = partial(judging.endpoint_judge, asked=benchmark.asked, shipped=benchmark.rubrics)
    # The scorer's measures are perspectives, whatever it is asked.
    return {"openai": ask} | ({"scorer": judging.scorer_judge} if benchmark.takes_perspectives else {})


def run(benchmark: Benchmark, a: Namespace) -> None:
    """Makes the edits that are missing, has them judged, prints the table and writes the report."""
    folder = _output(a)
    requests = benchmark.open(a.data)
    items = requests.items if a.shard is None else _part(requests.items, a.shard.of([i.group for i in requests.items]))
    edits = collect_sources(folder, requests, items)
    asks = Namespace(**vars(a) | {"model": a.judge_model, "base": a.judge_base, "shard": None})
    judge = _judge(benchmark, asks, edits)
    system = _edit(a, benchmark, requests.items, edits, folder)
    unusual = look_at(edits)
    if a.shard is None:
        write_lists(folder, requests, edits)
    with judging.answered_plan(asks, judge, edits, benchmark.asked) as (plan, store):
        outcomes = read_outcomes(plan, store, edits.failures)
        if isinstance(judge, EndpointJudge):
            print(describe_usage(store.usage(plan.questions), judging.prices(asks), str(store.path)))
    results = [Result(item, _measured(benchmark, outcomes[item.key])) for item in items]
    if a.shard is None:
        numbers = count(benchmark, results)
        print("\n\n".join(table.to_text() for table in tables(benchmark, numbers)))
        if a.json:
            save_results(a.json, benchmark, system, plan, numbers, unusual, results, edits)
            sheets.draw([a.json], a.page, a.sheet)
    _warn(results, unusual)


def _measured(benchmark: Benchmark, answered: Mapping[str, Outcome]) -> dict[str, Outcome]:
    found = {**answered, **benchmark.derived(answered)}
    return {measure: found[measure] for measure in benchmark.measures}


def run_comparison(a: Namespace) -> None:
    """Prints the differences of two reports, and writes them."""
    found = comparison.compare(*a.reports)
    print("\n\n".join(table.to_text() for table in comparison.tables(found)))
    if a.json:
        with atomic_write(a.json) as unfinished:
            write_json(found, unfinished)
    sheets.draw(a.reports, a.page, a.sheet)


def _output(a: Namespace) -> Path:
    """The folder of the edits. Raises ValueError for arguments that do not go together."""
    if a.shard is not None and a.json:
        raise ValueError("--shard makes and judges a part, which has no report: leave out --json, and give --output.")
    if a.json is None and (a.page or a.sheet):
        raise ValueError("--page and --sheet are drawn from the report: give --json FILE too.")
    if a.output is None and a.json is None:
        raise ValueError("give --json FILE for the report, or --output DIR for the edits alone.")
    return a.output or a.json.with_suffix("")


def _part(items: Sequence[Item], groups: Sequence[str]) -> list[Item]:
    """The items of a machine: all items of a photograph, so that no two machines write one source."""
    chosen = set(groups)
    return [item for item in items if item.group in chosen]


def _judge(benchmark: Benchmark, asks: Namespace, edits: Edits) -> Judge | None:
    """The judge, or None for a replay. Made before the edits, so that wrong arguments fail at once."""
    if asks.judge == judging.REPLAY:
        with Store(asks.store):  # refuses what is no store
            return None
    asks.image_sizes = getattr(asks, "image_sizes", None) or benchmark.image_sizes[0]
    return _judges(benchmark)[asks.judge](asks, edits)


def _edit(a: Namespace, benchmark: Benchmark, items: Sequence[Item], edits: Edits, folder: Path) -> dict[str, Any]:
    """Makes or finds the edits; returns what made them."""
    if a.edits is not None:
        find_all(a.edits, edits)
        return {"name": a.name or str(a.edits), "model": None, "edits": a.edits, "settings": None}
    settings, reward = read_settings(a), BEST if a.reward is None else Reward(*a.reward)
    editor = Editor.load(a.model, a.dtype)
    system = _system(a, editor, settings, reward)
    requests = digest_texts(f"{item.key}: {item.label.instruction}" for item in items)[:12]
    keep_settings(folder, {"benchmark": benchmark.name, "requests": requests, **system})
    make_all(editor, folder, edits, settings, reward, a.seed, a.batch_size)
    return {"name": a.name or a.model, **system, "edits": folder / EDITS}


def _system(a: Namespace, editor: Editor, settings: Mapping[str, Any], reward: Asked) -> dict[str, Any]:
    """What the edits follow from."""
    asked = {**settings, "sampler": settings["sampler"] or editor.base.process.default_sampler, "seed": a.seed}
    asked["reward"] = editor.requested(reward)
    described = {name: asdict(value) if isinstance(value, Reward) else value for name, value in asked.items()}
    return {"model": a.model, "weights": editor.fingerprint, "settings": described}


def _warn(results: Sequence[Result], unusual: Mapping[str, Sequence[str]]) -> None:
    """Names the first failures and what is unusual on stderr. Failures are counted in the report, so none is fatal."""
    failed = [
        f"{result.item.key}, {measure}: {outcome.failure.reason}. {outcome.failure.detail}".rstrip(" .")
        for result in results
        for measure, outcome in result.outcomes.items()
        if outcome.failure is not None
    ]
    total = sum(len(result.outcomes) for result in results)
    report_bad(failed[:_FIRST_FAILURES], total, "items have no answer", len(failed), len(failed))
    for name, keys in unusual.items():
        # Editors have sizes of their own: another size than the source's is usual.
        if keys and name != "other_size":
            noted = f"{count_noun(len(keys), 'edit')}, {name.replace('_', ' ')}: {list_names(keys)}"
            print(f"note: {noted}", file=sys.stderr)
