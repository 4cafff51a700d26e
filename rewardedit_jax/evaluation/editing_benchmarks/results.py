"""The report of a benchmark as a JSON file: what was measured and how, every number, and every item."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardedit_jax.data.encoded import digest
from rewardedit_jax.data.images import image_bytes
from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.evaluation.editing_benchmarks import pair_metrics
from rewardedit_jax.evaluation.editing_benchmarks.benchmark import Benchmark
from rewardedit_jax.evaluation.editing_benchmarks.counts import Result
from rewardedit_jax.evaluation.editing_benchmarks.edit_folder import Edits
from rewardedit_jax.evaluation.metrics.report import MetricReport
from rewardedit_jax.judging.questions import Question
from rewardedit_jax.weights.files import write_json


def save_results(
    file: Path,
    benchmark: Benchmark,
    system: Mapping[str, Any],
    questions: Sequence[Question],
    numbers: Mapping[str, Any],
    unusual: Mapping[str, Sequence[str]],
    results: Sequence[Result],
    edits: Edits,
    metrics: MetricReport | None = None,
) -> None:
    """Writes the report; the file is whole or absent. Without questions, no judge was asked."""
    measured = defaultdict(dict, pair_metrics.by_item(metrics)) if metrics else {}
    content = {
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "title": benchmark.title,
        **system,
        # Files are relative to the report, so that a folder with both can be moved.
        "edits": os.path.relpath(system["edits"], file.parent),
        "judge": {**_judge(questions), "measures": list(benchmark.measures) if questions else []},
        **numbers,
        "outputs": unusual,
        **({"metrics": pair_metrics.to_json(metrics, edits.items)} if metrics else {}),
        "items": [
            _item(benchmark, result, edits, file.parent) | ({"metrics": measured[result.item.key]} if measured else {})
            for result in results
        ],
    }
    with atomic_write(file) as unfinished:
        write_json(content, unfinished)


def _judge(questions: Sequence[Question]) -> dict[str, Any]:
    """Who answered what, as the keys of the answers have it."""
    names = {name: ", ".join(sorted({getattr(q, name) for q in questions})) for name in ("judge", "model", "images")}
    rubrics = {q.perspective: q.rubric for q in questions}
    forms = sorted({f"{q.order}, {q.repetition}" for q in questions})
    return {**names, "rubrics": rubrics, "asked": forms}


def _item(benchmark: Benchmark, result: Result, edits: Edits, folder: Path) -> dict[str, Any]:
    label = result.item.label
    source, edited = (found.get(label.key) for found in (edits.sources, edits.edited))
    return {
        "key": label.key,
        "type": label.edit_type,
        "sets": list(benchmark.sets(result.item)),
        "group": result.item.group,
        "instruction": label.instruction,
        "source": source and os.path.relpath(source, folder),
        "source_digest": source and digest(image_bytes(source))[:12],
        "edited": edited and os.path.relpath(edited, folder),
        **{measure: outcome.to_json() for measure, outcome in result.outcomes.items()},
    }
