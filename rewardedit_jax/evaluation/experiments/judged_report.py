"""The table of an experiment on a benchmark of editors whose edits a judge has answered questions about.

It reads the report that launch/evaluate.py writes for such a benchmark: `items`, each with its key, its group (the
photograph), for each measure a score and a yes or no, or why there is none, and the values of metrics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from rewardedit_jax.data.json_files import read_json
from rewardedit_jax.evaluation.experiments.experiment import Results
from rewardedit_jax.evaluation.experiments.table import Samples, Table, make_table
from rewardedit_jax.evaluation.statistics import indices_by_value

Values = Mapping[str, Float[np.ndarray, "seeds items"]]  # by arm; NaN where there is none


def report_judged(workdir: Path, results: Results, count: int, *, baseline: str = "") -> tuple[Table, list[Path]]:
    """The percentage of yes over all items, the mean score over the items that all arms answer, and metrics.

    Args:
      count: not used; the benchmark has its own number of items.
      baseline: title of the arm that the others are compared with.
    """
    reports = _Reports({arm: [read_json(file, dict) for file in files] for arm, files in results.items()})
    columns: dict[str, Mapping[str, Samples]] = {}
    notes = []
    for measure in reports.first["judge"]["measures"]:
        scores, yes = (reports.values(measure, field) for field in ("score", "yes"))
        if not all(np.isnan(of).all() for of in yes.values()):
            # A failure is not a yes.
            columns[f"{measure}, % yes"] = reports.samples({arm: 100 * np.nan_to_num(of) for arm, of in yes.items()})
        columns[measure] = reports.samples(scores)
        failed = ", ".join(f"{arm} {int(np.isnan(of).sum())}" for arm, of in scores.items())
        notes.append(f"{measure}: scores of the {_common(scores).sum()} items that all arms have; failed: {failed}.")
    columns |= {name: reports.metric(name) for name in reports.metrics()}
    table = make_table({(arm, ""): {name: of[arm] for name, of in columns.items()} for arm in results}, (baseline, ""))
    about = f"{reports.first['title']}: {len(reports.keys)} items; intervals are over {len(reports.groups)} groups."
    return replace(table, spec="#.3g").with_notes(about, *notes, *reports.missing()), []


class _Reports:
    """The reports of all arms and seeds on the same items."""

    def __init__(self, reports: Mapping[str, Sequence[Mapping[str, Any]]]):
        """Raises ValueError where reports have other items."""
        self.reports, self.first = reports, next(iter(reports.values()))[0]
        self._items = {
            arm: [{item["key"]: item for item in one["items"]} for one in found] for arm, found in reports.items()
        }
        first, *others = chain(*self._items.values())
        if any(first.keys() != other.keys() for other in others):
            raise ValueError("the arms were evaluated on different items: give all of them one benchmark")
        self.keys = list(first)
        # What the edits of a photograph have in common is no chance.
        self.groups = [list(of) for of in indices_by_value([first[key]["group"] for key in self.keys]).values()]

    def values(self, part: str, field: str) -> Values:
        """What each item has of a measure, or of the part "metrics"."""
        return {
            arm: np.array([[one[key].get(part, {}).get(field, np.nan) for key in self.keys] for one in found], float)
            for arm, found in self._items.items()
        }

    def samples(self, values: Values) -> dict[str, Samples]:
        """One sample for each group, of the items that all arms and seeds have."""
        counted = _common(values).astype(float)
        counts = np.array([counted[group].sum() for group in self.groups])
        kept = {arm: np.where(counted, of, 0) for arm, of in values.items()}
        return {
            arm: Samples(np.stack([of[:, group].sum(1) for group in self.groups], 1), counts)
            for arm, of in kept.items()
        }

    def metrics(self) -> list[str]:
        """The metrics that all reports have a value of."""
        found = [one.get("metrics", {"metrics": {}})["metrics"] for one in chain(*self.reports.values())]
        return [name for name in found[0] if all(one.get(name, {}).get("value") is not None for one in found)]

    def metric(self, name: str) -> dict[str, Samples]:
        values = self.values("metrics", name)
        if _common(values).any():
            return self.samples(values)
        # A distance of two sets of images has no value per item.
        of_sets = {arm: [[one["metrics"]["metrics"][name]["value"]] for one in of] for arm, of in self.reports.items()}
        return {arm: Samples.of(np.array(of)) for arm, of in of_sets.items()}

    def missing(self) -> list[str]:
        """A note on the metrics that were asked for and not measured."""
        names = self.first.get("metrics", {}).get("missing", {})
        return [f"Not measured, as their weights are missing: {', '.join(names)}."] if names else []


def _common(values: Values) -> np.ndarray:
    """bool[items]: where all arms and seeds have a value."""
    return ~np.isnan(np.concatenate(list(values.values()))).any(0)
