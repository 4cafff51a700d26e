"""Two systems on one benchmark: paired differences over the items that both reports have.

Two systems are compared only if the same was asked: one benchmark and version, one judge, equal rubrics and images. The
difference of an item has less noise than either score, because hard requests are hard for both systems.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rewardedit_jax.data.json_files import read_json
from rewardedit_jax.evaluation.report import TextTable
from rewardedit_jax.evaluation.statistics import mean_interval
from rewardedit_jax.listing import list_lines, list_names

_SAME = ("benchmark", "version", "judge.judge", "judge.model", "judge.images", "judge.rubrics")
_OF_REQUEST = ("instruction", "source_digest")  # fields of an item; equal keys with other values are other requests


class Pair(NamedTuple):
    """One item in both reports."""

    first: Mapping[str, Any]
    second: Mapping[str, Any]


def read_report(file: Path) -> dict[str, Any]:
    """A report of `results.save_results`. Raises ValueError for any other file."""
    report = read_json(file)
    if not isinstance(report, dict) or not {"benchmark", "name", "judge", "items"} <= report.keys():
        raise ValueError(
            f"{file} is no report of an editing benchmark: launch/evaluate.py real_edit --json writes one."
        )
    return report


def compare(first: Path, second: Path) -> dict[str, Any]:
    """The differences first minus second, as JSON: for each measure, under "types" by type, under "sets" by set.

    Raises:
      ValueError: the reports do not answer the same questions, or have no item in common; names the difference.
    """
    reports = read_report(first), read_report(second)
    _check_same(first, second, *reports)
    by_key = [{item["key"]: item for item in report["items"]} for report in reports]
    pairs = [Pair(item, by_key[1][key]) for key, item in by_key[0].items() if key in by_key[1]]
    _check_requests(first, second, pairs)
    left_out = [[key for key in mine if key not in other] for mine, other in (by_key, by_key[::-1])]
    sets: dict[str, list[Pair]] = {}
    for pair in pairs:
        for name in pair.first["sets"]:
            sets.setdefault(name, []).append(pair)
    measures = list(reports[0]["judge"]["measures"])
    # Numbers over all items mean nothing where both reports have none.
    whole = _differences(measures, pairs) if measures and all(m in reports[0] for m in measures) else {}
    return {
        "benchmark": reports[0]["benchmark"],
        "version": reports[0]["version"],
        "judge": reports[0]["judge"],
        "first": _system(first, reports[0]),
        "second": _system(second, reports[1]),
        "compared": len(pairs),
        "only_first": left_out[0],
        "only_second": left_out[1],
        **whole,
        "metrics": _metrics(pairs),
        "sets": {name: _differences(measures, some) for name, some in sets.items()} if measures else {},
    }


def _system(file: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "report": str(file),
        **{name: report.get(name) for name in ("name", "model", "weights", "edits", "settings")},
    }


def _check_same(first: Path, second: Path, a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    values = [(name, *(_field(report, name) for report in (a, b))) for name in _SAME]
    if different := [f"{name}: {mine!r} and {other!r}" for name, mine, other in values if mine != other]:
        heading = f"{first} and {second} do not answer the same questions, so they are not compared:"
        raise ValueError(list_lines(heading, different))


def _field(report: Mapping[str, Any], name: str) -> Any:
    """A field of a report; "judge.model" is one of the field "judge"."""
    outer, _, inner = name.partition(".")
    return report[outer].get(inner) if inner else report.get(outer)


def _check_requests(first: Path, second: Path, pairs: Sequence[Pair]) -> None:
    if not pairs:
        raise ValueError(f"{first} and {second} have no item in common.")
    others = [
        f"{pair.first['key']}: {name} {pair.first[name]!r} and {pair.second[name]!r}"
        for pair in pairs
        for name in _OF_REQUEST
        # None: the source is missing in one of them, which is a failure there.
        if None not in (pair.first[name], pair.second[name]) and pair.first[name] != pair.second[name]
    ]
    if others:
        raise ValueError(list_lines(f"{first} and {second} have two versions of the benchmark:", others))


def _differences(measures: Sequence[str], pairs: Sequence[Pair]) -> dict[str, Any]:
    types: dict[str, list[Pair]] = {}
    for pair in pairs:
        types.setdefault(pair.first["type"], []).append(pair)
    by_type = {name: {m: _of_measure(m, some) for m in measures} for name, some in types.items()}
    return {m: _of_measure(m, pairs) for m in measures} | {"types": by_type}


def _metrics(pairs: Sequence[Pair]) -> dict[str, Any]:
    """The metrics that both systems have, over the items with both values."""
    both = [tuple(item.get("metrics", {}) for item in pair) for pair in pairs]
    names = dict.fromkeys(name for mine, _ in both for name in mine)
    values = {name: np.asarray([[found.get(name, np.nan) for found in item] for item in both]) for name in names}
    return {name: _paired(found, pairs) for name, found in values.items() if not np.isnan(found).all(axis=0).any()}


def _of_measure(measure: str, pairs: Sequence[Pair]) -> dict[str, Any]:
    outcomes = [(pair.first[measure], pair.second[measure]) for pair in pairs]
    answered = np.asarray([not any("failed" in outcome for outcome in both) for both in outcomes])
    scores = np.asarray([[outcome.get("score", np.nan) for outcome in both] for both in outcomes], np.float64)
    found = {"score": _paired(np.where(answered[:, None], scores, np.nan), pairs)}
    if any("yes" in outcome for both in outcomes for outcome in both):
        # As in the reports: what failed is not a yes.
        yes = np.asarray([[outcome.get("yes", 0.0) for outcome in both] for both in outcomes], np.float64)
        found = {"accuracy": _paired(yes, pairs), **found}
    return found


def _paired(values: np.ndarray, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Means of both systems and their difference over the items that have both values."""
    differences = values[:, 0] - values[:, 1]
    known = ~np.isnan(differences)
    means = [float(values[known, i].mean()) if known.any() else None for i in (0, 1)]
    return {
        "items": int(known.sum()),
        "first": means[0],
        "second": means[1],
        "difference": means[0] - means[1] if known.any() else None,
        "interval": mean_interval(differences, [pair.first["group"] for pair in pairs]),
    }


def tables(comparison: Mapping[str, Any]) -> list[TextTable]:
    """A table of the whole benchmark, and one for each of its sets."""
    names = [comparison[which]["name"] for which in ("first", "second")]
    title = f"{comparison['benchmark']}: {names[0]} minus {names[1]}"
    notes = [f"{comparison['compared']} items in both. {_ABOUT}"]
    for name in ("first", "second"):
        if left_out := comparison[f"only_{name}"]:
            notes.append(f"{len(left_out)} items of the {name} are not in the other: {list_names(left_out)}.")
    measures = comparison["judge"]["measures"]
    named = [(title, comparison)] if measures and measures[0] in comparison else []
    named += [(f"{title}, {name}", found) for name, found in comparison["sets"].items()]
    found = [_table(title, measures, numbers, notes) for title, numbers in named]
    return [*found, _metric_table(title, comparison["metrics"])] if comparison["metrics"] else found


_ABOUT = "Scores: of the items that both answered. Brackets: 95 %, paired, over photographs."


def _table(title: str, measures: Sequence[str], found: Mapping[str, Any], notes: Sequence[str]) -> TextTable:
    heading = ("measure", "type", "items", "first", "second", "difference", "95 % interval")
    rows = [
        (f"{measure}, % yes" if kind == "accuracy" else measure, of_type, *_cells(numbers, kind))
        for measure in measures
        for kind in found[measure]
        for of_type, some in (*found["types"].items(), ("all", found))
        for numbers in [some[measure].get(kind)]
        if numbers is not None
    ]
    return TextTable(heading, rows, title, notes)


def _metric_table(title: str, metrics: Mapping[str, Any]) -> TextTable:
    heading = ("metric", "items", "first", "second", "difference", "95 % interval")
    return TextTable(
        heading, [(name, *_cells(found, "metric")) for name, found in metrics.items()], f"{title}, metrics"
    )


def _cells(numbers: Mapping[str, Any], kind: str) -> tuple[str, ...]:
    if numbers["difference"] is None:
        return (str(numbers["items"]), *["–"] * 4)
    scale, spec = {"accuracy": (100, ".1f"), "score": (1, ".2f"), "metric": (1, ".4f")}[kind]
    first, second, difference, low, high = (
        scale * value for value in (numbers["first"], numbers["second"], numbers["difference"], *numbers["interval"])
    )
    interval = f"[{low:+{spec}}, {high:+{spec}}]"
    return str(numbers["items"]), f"{first:{spec}}", f"{second:{spec}}", f"{difference:+{spec}}", interval
