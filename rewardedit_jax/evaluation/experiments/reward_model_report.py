"""The table of an experiment on a public benchmark of reward models: the measures of its reports, for every seed."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rewardedit_jax.data.json_files import read_json
from rewardedit_jax.evaluation.experiments.experiment import Results
from rewardedit_jax.evaluation.experiments.table import Samples, Table, make_table


def report_reward_models(workdir: Path, results: Results, count: int) -> tuple[Table, list[Path]]:
    """A line for each scorer, and a column for each measure and protocol of `evaluation.report.Report`.

    Args:
      count: not used; the benchmark has its own number of items.
    """
    reports = {arm: [read_json(file, dict) for file in files] for arm, files in results.items()}
    first = next(iter(reports.values()))[0]
    measures = [_name(row) for row in first["rows"]]
    samples = {
        (arm, ""): {name: Samples.of(np.array([[_value(one, name)] for one in of_arm])) for name in measures}
        for arm, of_arm in reports.items()
    }
    counted = "; ".join(f"{_name(row)}: {row['of']}" for row in first["rows"])
    notes = (f"{first['title']}. Counted: {counted}.", "Intervals over items stand in the report of each evaluation.")
    return replace(make_table(samples), spec="#.3g").with_notes(*notes), []


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['measure']}, {row['protocol']}"


def _value(report: Mapping[str, Any], name: str) -> float:
    """The value of a measure; NaN where a report lacks it, or where it is not defined."""
    values = [row["value"] for row in report["rows"] if _name(row) == name]
    return np.nan if not values or values[0] is None else values[0]
