"""The table of an experiment on a benchmark of editors whose edits a judge has answered questions about.

It reads the report that launch/evaluate.py writes for such a benchmark: `items`, each with its key, its group (the
photograph) and, for each measure, a score and a yes or no, or why there is none.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewardedit_jax.data.json_files import read_json
from rewardedit_jax.evaluation.experiments.experiment import Results
from rewardedit_jax.evaluation.experiments.table import Samples, Table, make_table
from rewardedit_jax.evaluation.statistics import indices_by_value

Items = Mapping[str, Mapping[str, Any]]  # by key


def report_judged(workdir: Path, results: Results, count: int, *, baseline: str = "") -> tuple[Table, list[Path]]:
    """For each measure, the percentage of yes over all items and the mean score over the items that all arms answer.

    Args:
      count: not used; the benchmark has its own number of items.
      baseline: title of the arm that the others are compared with.
    """
    reports = {arm: [read_json(file, dict) for file in files] for arm, files in results.items()}
    measures = next(iter(reports.values()))[0]["judge"]["measures"]
    items = {arm: [{item["key"]: item for item in one["items"]} for one in found] for arm, found in reports.items()}
    keys = _same_keys(items)
    groups = indices_by_value([next(iter(items.values()))[0][key]["group"] for key in keys]).values()
    samples = {(arm, ""): {} for arm in items}
    notes = []
    for measure in measures:
        scores = {arm: _values(found, keys, measure, "score") for arm, found in items.items()}
        answered = ~np.isnan(np.concatenate(list(scores.values()))).any(0)
        for arm, found in items.items():
            yes = np.nan_to_num(_values(found, keys, measure, "yes"))  # a failure is not a yes
            samples[arm, ""][f"{measure}, % yes"] = _by_group(100 * yes, np.ones(len(keys), bool), groups)
            samples[arm, ""][measure] = _by_group(scores[arm], answered, groups)
        failed = ", ".join(f"{arm} {int(np.isnan(of).sum())}" for arm, of in scores.items())
        notes.append(f"{measure}: scores of the {answered.sum()} items that all arms and seeds have; failed: {failed}.")
    title = next(iter(reports.values()))[0]["title"]
    table = make_table(samples, (baseline, ""))
    return table.with_notes(f"{title}: {len(keys)} items; intervals are over {len(groups)} groups.", *notes), []


def _same_keys(items: Mapping[str, Sequence[Items]]) -> list[str]:
    """The keys of all reports. Raises ValueError where reports have other items."""
    first, *others = [of_seed for found in items.values() for of_seed in found]
    if any(first.keys() != other.keys() for other in others):
        raise ValueError("the arms were evaluated on different items: give all of them one benchmark")
    return list(first)


def _values(found: Sequence[Items], keys: Sequence[str], measure: str, field: str) -> np.ndarray:
    """[seeds, items]; NaN where there is no answer."""
    return np.array([[of_seed[key][measure].get(field, np.nan) for key in keys] for of_seed in found], float)


def _by_group(values: np.ndarray, counted: np.ndarray, groups: Sequence[Sequence[int]]) -> Samples:
    """Samples with one item per group: what a photograph's edits have in common is no chance."""
    kept = np.where(counted, values, 0)
    sums, counts = (np.stack([array[..., i].sum(-1) for i in map(list, groups)], -1) for array in (kept, counted))
    return Samples(sums.astype(float), counts.astype(float))
