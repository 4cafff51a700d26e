"""An evaluation of one system on one benchmark: its edits are made or found, judged, counted and written."""

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rewardedit_jax.command_line import report_bad
from rewardedit_jax.data.encoded import digest_texts
from rewardedit_jax.data.runs import Shard
from rewardedit_jax.editing.editor import BEST, Asked, Editor
from rewardedit_jax.editing.settings import read_settings
from rewardedit_jax.evaluation.editing_benchmarks import sheets
from rewardedit_jax.evaluation.editing_benchmarks.benchmark import Benchmark, Item, Requests
from rewardedit_jax.evaluation.editing_benchmarks.counts import Result, count, tables
from rewardedit_jax.evaluation.editing_benchmarks.edit_folder import (
    EDITS,
    TARGETS,
    Edits,
    collect_sources,
    find_all,
    find_in,
    find_target,
    keep_settings,
    make_all,
    write_lists,
)
from rewardedit_jax.evaluation.editing_benchmarks.outcomes import Outcome, read_outcomes
from rewardedit_jax.evaluation.editing_benchmarks.outputs import look_at
from rewardedit_jax.evaluation.editing_benchmarks.pair_metrics import measure_pairs
from rewardedit_jax.evaluation.editing_benchmarks.results import save_results
from rewardedit_jax.judging import command as judging
from rewardedit_jax.judging.costs import describe_usage
from rewardedit_jax.judging.endpoint import EndpointJudge
from rewardedit_jax.judging.judges import Judge
from rewardedit_jax.judging.questions import Question
from rewardedit_jax.judging.store import Store
from rewardedit_jax.listing import count_noun, list_names
from rewardedit_jax.reward import Reward

NONE = "none"  # in place of a judge
_TARGETS = "the benchmark's targets"  # the name of a system
_FIRST_FAILURES = 10  # that are printed


def evaluate(benchmark: Benchmark, a: Namespace) -> None:
    """Makes the edits that are missing, has them judged, prints the table and writes the report."""
    folder = _output(a)
    requests = benchmark.open(a.data, **{name: getattr(a, name) for name in benchmark.options})
    items = requests.items if a.shard is None else _part(requests.items, a.shard)
    edits = collect_sources(folder, requests, items)
    asks = Namespace(**vars(a) | {"model": a.judge_model, "base": a.judge_base, "shard": None})
    judge = _judge(benchmark, asks, edits)
    system = _edit(a, benchmark, requests, edits, folder)
    unusual = look_at(edits)
    if a.shard is None:
        write_lists(folder, requests, edits)
    if a.judge == NONE:
        questions, results, numbers = (), [Result(item, {}) for item in items], {}
        failed = [f"{key}: {failure.reason}. {failure.detail}" for key, failure in edits.failures.items()]
    else:
        questions, results = _judged(benchmark, asks, judge, edits)
        numbers = {} if a.shard else count(benchmark, results)
        failed = _failures(results)
    if numbers:
        print("\n\n".join(table.to_text() for table in tables(benchmark, numbers)))
    if a.shard is None and (a.json or a.judge != NONE):
        metrics = measure_pairs(folder, items, a.metrics, a.weights)
        if metrics is not None:
            print(f"\n{metrics.to_text()}")
        if a.json:
            save_results(a.json, benchmark, system, questions, numbers, unusual, results, edits, metrics)
            sheets.draw([a.json], a.page, a.sheet)
    _warn(failed, len(items) * max(1, len(results[0].outcomes)))
    _note(unusual)


def _judged(
    benchmark: Benchmark, asks: Namespace, judge: Judge | None, edits: Edits
) -> tuple[Sequence[Question], list[Result]]:
    """The questions, and what was answered about each item."""
    with judging.answered_plan(asks, judge, edits, benchmark.asked) as (plan, store):
        outcomes = read_outcomes(plan, store, edits.failures)
        if isinstance(judge, EndpointJudge):
            print(describe_usage(store.usage(plan.questions), judging.prices(asks), str(store.path)))
    return plan.questions, [Result(item, _measured(benchmark, outcomes[item.key])) for item in edits.items]


def _measured(benchmark: Benchmark, answered: Mapping[str, Outcome]) -> dict[str, Outcome]:
    found = {**answered, **benchmark.derived(answered)}
    return {measure: found[measure] for measure in benchmark.measures}


def _output(a: Namespace) -> Path:
    """The folder of the edits. Raises ValueError for arguments that do not go together."""
    if a.judge == NONE and a.json and not a.metrics:
        raise ValueError("--judge none has no report without --metrics: leave out --json, and give --output.")
    if a.judge != NONE and a.store is None:
        raise ValueError(f"--judge {a.judge} needs --store FILE, where answers are kept.")
    if a.shard is not None and a.json:
        raise ValueError("--shard makes and judges a part, which has no report: leave out --json, and give --output.")
    if a.json is None and (a.page or a.sheet):
        raise ValueError("--page and --sheet are drawn from the report: give --json FILE too.")
    if a.output is None and a.json is None:
        raise ValueError("give --json FILE for the report, or --output DIR for the edits alone.")
    return a.output or a.json.with_suffix("")


def _part(items: Sequence[Item], shard: Shard) -> list[Item]:
    """The items of a machine: all items of a photograph, so that no two machines write one source."""
    groups = set(shard.of([item.group for item in items]))
    return [item for item in items if item.group in groups]


def judges_of(benchmark: Benchmark) -> Mapping[str, judging.MakeJudge]:
    """The judges that can answer a benchmark, besides a replay."""
    ask = partial(judging.endpoint_judge, asked=benchmark.asked, shipped=benchmark.rubrics)
    # The scorer's measures are perspectives, whatever it is asked.
    return {"openai": ask} | ({"scorer": judging.scorer_judge} if benchmark.takes_perspectives else {})


def _judge(benchmark: Benchmark, asks: Namespace, edits: Edits) -> Judge | None:
    """The judge, or None for a replay. Made before the edits, so that wrong arguments fail at once."""
    if asks.judge == NONE:
        return None
    if asks.judge == judging.REPLAY:
        with Store(asks.store) as store:
            judging.replayed_questions(asks, store, benchmark.asked)
        return None
    asks.image_sizes = getattr(asks, "image_sizes", None) or benchmark.image_sizes[0]
    return judges_of(benchmark)[asks.judge](asks, edits)


def _edit(a: Namespace, benchmark: Benchmark, requests: Requests, edits: Edits, folder: Path) -> dict[str, Any]:
    """Makes or finds the edits; returns what made them."""
    if a.edits is not None:
        find_all(edits, partial(find_in, a.edits))
        return {"name": a.name or str(a.edits), "model": None, "edits": a.edits, "settings": None}
    if a.targets:
        if requests.target is None:
            raise ValueError(f"{benchmark.name} has no target images: give --model or --edits.")
        find_all(edits, partial(find_target, folder, requests))
        return {"name": a.name or _TARGETS, "model": None, "edits": folder / TARGETS, "settings": None}
    settings, reward = read_settings(a), BEST if a.reward is None else Reward(*a.reward)
    editor = Editor.load(a.model, a.dtype)
    system = _system(a, editor, settings, reward)
    asked = digest_texts(f"{item.key}: {item.label.instruction}" for item in requests.items)[:12]
    keep_settings(folder, {"benchmark": benchmark.name, "requests": asked, **system})
    make_all(editor, folder, edits, settings, reward, a.seed, a.batch_size)
    return {"name": a.name or a.model, **system, "edits": folder / EDITS}


def _system(a: Namespace, editor: Editor, settings: Mapping[str, Any], reward: Asked) -> dict[str, Any]:
    """What the edits follow from."""
    asked = {**settings, "sampler": settings["sampler"] or editor.base.process.default_sampler, "seed": a.seed}
    asked["reward"] = editor.requested(reward)
    described = {name: asdict(value) if isinstance(value, Reward) else value for name, value in asked.items()}
    return {"model": a.model, "weights": editor.fingerprint, "settings": described}


def _failures(results: Sequence[Result]) -> list[str]:
    """A sentence for each measure of each item that has no answer."""
    return [
        f"{result.item.key}, {measure}: {outcome.failure.reason}. {outcome.failure.detail}".rstrip(" .")
        for result in results
        for measure, outcome in result.outcomes.items()
        if outcome.failure is not None
    ]


def _warn(failed: Sequence[str], total: int) -> None:
    """Names the first failures on stderr. They are counted in the report, so none of them ends the run."""
    report_bad(failed[:_FIRST_FAILURES], total, "items have failed", len(failed), len(failed))


def _note(unusual: Mapping[str, Sequence[str]]) -> None:
    for name, keys in unusual.items():
        # Editors have sizes of their own: another size than the source's is usual.
        if keys and name != "other_size":
            noted = f"{count_noun(len(keys), 'edit')}, {name.replace('_', ' ')}: {list_names(keys)}"
            print(f"note: {noted}", file=sys.stderr)
