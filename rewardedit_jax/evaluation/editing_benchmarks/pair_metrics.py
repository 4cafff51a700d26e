"""Metrics of a benchmark's edits beside the judge: distances and similarities to targets and sources."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rewardedit_jax.evaluation.editing_benchmarks.benchmark import Item
from rewardedit_jax.evaluation.editing_benchmarks.edit_folder import PAIRS
from rewardedit_jax.evaluation.metrics.items import read_items
from rewardedit_jax.evaluation.metrics.measure import measure
from rewardedit_jax.evaluation.metrics.report import Measured, MetricReport
from rewardedit_jax.evaluation.statistics import mean_interval


def measure_pairs(
    folder: Path, items: Sequence[Item], names: Sequence[str], weights: Path | None
) -> MetricReport | None:
    """The metrics of the edits in the folder's list of pairs, with intervals over photographs; None without any."""
    if not names or not (folder / PAIRS).stat().st_size:
        return None
    pairs, _ = read_items(folder / PAIRS, allow_outside=True)  # we have written it; edits may lie elsewhere
    report = measure(pairs, names, weights)
    groups = {item.key: item.group for item in items}
    return replace(report, measured=[_over_groups(found, groups) for found in report.measured])


def _over_groups(found: Measured, groups: Mapping[str, str]) -> Measured:
    if not found.items:
        return found
    values = np.asarray(list(found.items.values()), np.float64)
    return replace(found, interval=mean_interval(values, [groups[key] for key in found.items]))


def to_json(report: MetricReport, items: Sequence[Item]) -> dict[str, Any]:
    """The numbers for a report; `expected` edits were to be measured, of which `without_edit` do not exist."""
    content, expected = report.to_json(), sum(item.is_paired for item in items)
    names = ("metrics", "missing", "failed", "clip_t_texts")
    return {
        **{name: content[name] for name in names},
        "expected": expected,
        "without_edit": expected - len(report.keys),
    }


def by_item(report: MetricReport) -> dict[str, dict[str, float]]:
    """Key of an item → metric → value."""
    found: dict[str, dict[str, float]] = {}
    for measured in report.measured:
        for key, value in measured.items.items():
            found.setdefault(key, {})[measured.name] = value
    return found
