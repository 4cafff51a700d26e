"""From the outcomes of a benchmark's items to its numbers: shares of yes, mean scores, failures by reason.

The denominator of the share of yes is the number of requests, always: what failed is not a yes. A mean score is over
the answered requests, whose number stands beside it. Intervals are bootstrap intervals of 95 %, over photographs.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from rewardedit_jax.evaluation.editing_benchmarks.benchmark import Benchmark, Item
from rewardedit_jax.evaluation.editing_benchmarks.outcomes import Outcome
from rewardedit_jax.evaluation.report import TextTable
from rewardedit_jax.evaluation.statistics import mean_interval
from rewardedit_jax.listing import count_noun


class Result(NamedTuple):
    """One item of a benchmark and what became of it."""

    item: Item
    outcomes: Mapping[str, Outcome]  # by measure


def count(benchmark: Benchmark, results: Sequence[Result]) -> dict[str, Any]:
    """The numbers of a report: for each measure, the same under "types" for each type of edit, and under "sets"."""
    sets: dict[str, list[Result]] = {}
    for result in results:
        for name in benchmark.sets(result.item):
            sets.setdefault(name, []).append(result)
    whole = _count_set(benchmark, results) if benchmark.has_whole else {}
    return whole | ({"sets": {name: _count_set(benchmark, some) for name, some in sets.items()}} if sets else {})


def _count_set(benchmark: Benchmark, results: Sequence[Result]) -> dict[str, Any]:
    types: dict[str, list[Result]] = {}
    for result in results:
        types.setdefault(result.item.label.edit_type, []).append(result)
    by_type = {name: _all_totals(benchmark, some) for name, some in types.items()}
    whole = _all_totals(benchmark, results)
    return {m: totals | _macro(m, types, results) for m, totals in whole.items()} | {"types": by_type}


def _all_totals(benchmark: Benchmark, results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    return {m: _totals(m, results, m in benchmark.with_yes) for m in benchmark.measures}


def _totals(measure: str, results: Sequence[Result], has_yes: bool) -> dict[str, Any]:
    outcomes = [result.outcomes[measure] for result in results]
    answered = [outcome for outcome in outcomes if outcome.failure is None]
    reasons = Counter(outcome.failure.reason for outcome in outcomes if outcome.failure is not None)
    groups = [result.item.group for result in results]
    numbers: dict[str, Any] = {
        "score": fmean(outcome.score for outcome in answered) if answered else None,
        "score_interval": mean_interval(_values(outcomes, lambda outcome: outcome.score), groups),
        "answered": len(answered),
        "failed": len(outcomes) - len(answered),
        "total": len(outcomes),
        "reasons": dict(reasons.most_common()),
    }
    if not has_yes:
        return numbers
    yes = _values(outcomes, lambda outcome: outcome.yes or 0.0)
    share = {
        "accuracy": float(yes.mean()),
        "accuracy_interval": mean_interval(yes, groups),
        "accuracy_answered": fmean(outcome.yes for outcome in answered) if answered else None,
        "derived": sum(outcome.derived for outcome in answered),
    }
    return share | numbers


def _macro(measure: str, types: Mapping[str, Sequence[Result]], results: Sequence[Result]) -> dict[str, Any]:
    """The unweighted mean of the mean scores of all types that have an answer."""
    scores = _values([result.outcomes[measure] for result in results], lambda outcome: outcome.score)
    kinds = [result.item.label.edit_type for result in results]
    means = [fmean(known) for some in types.values() if (known := _scores(measure, some))]
    interval = mean_interval(scores, [result.item.group for result in results], kinds)
    return {"macro_score": fmean(means) if means else None, "macro_interval": interval, "macro_types": len(means)}


def _scores(measure: str, results: Sequence[Result]) -> list[float]:
    outcomes = (result.outcomes[measure] for result in results)
    return [outcome.score for outcome in outcomes if outcome.score is not None]


def _values(outcomes: Sequence[Outcome], value: Callable[[Outcome], float | None]) -> np.ndarray:
    found = (value(outcome) for outcome in outcomes)
    return np.asarray([np.nan if number is None else number for number in found], np.float64)


def tables(benchmark: Benchmark, numbers: Mapping[str, Any]) -> list[TextTable]:
    """A table for the whole benchmark, and one for each of its sets."""
    named = [(benchmark.title, numbers)] if benchmark.has_whole else []
    named += [(f"{benchmark.title}, {name}", found) for name, found in numbers.get("sets", {}).items()]
    return [_table(title, benchmark, found) for title, found in named]


def _table(title: str, benchmark: Benchmark, numbers: Mapping[str, Any]) -> TextTable:
    """A row for each type of edit and one for all, and notes on intervals and failures."""
    heading, measures = ["type", "edits"], benchmark.measures
    for measure in measures:
        heading += [f"{measure}, % yes", "score"] if measure in benchmark.with_yes else [measure]
    rows = [_row(name, measures, found) for name, found in numbers["types"].items()]
    rows.append(_row("all", measures, numbers))
    if not benchmark.with_yes:
        rows.append(_row("mean of types", measures, numbers, "macro_score"))
    notes = [_note(measure, numbers[measure]) for measure in measures]
    return TextTable([*heading, "failed"], rows, title, [*notes, _ABOUT])


_ABOUT = "% yes: of all edits, failures included. Scores: of the answered edits. Brackets: 95 %, over photographs."


def _row(name: str, measures: Sequence[str], numbers: Mapping[str, Any], score: str = "score") -> list[str]:
    cells = [name, str(numbers[measures[0]]["total"])]
    for measure in measures:
        found = numbers[measure]
        # Of a measure that nobody answered, "0 % yes" would look like a judgement.
        shown = found["answered"] > 0
        cells += [f"{100 * found['accuracy']:.1f}" if shown else "–"] if "accuracy" in found else []
        cells.append(f"{found[score]:.2f}" if shown else "–")
    return [*cells, " + ".join(str(numbers[measure]["failed"]) for measure in measures)]


def _note(measure: str, found: Mapping[str, Any]) -> str:
    """`following: 54.3 % yes [50.1, 58.2], score 3.41 [3.20, 3.60] of 557 answers; failed: 2 refused, 1 timeout.`"""
    numbers = []
    if found["answered"] and "accuracy" in found:
        yes, low, high = (100 * share for share in (found["accuracy"], *found["accuracy_interval"]))
        numbers.append(f"{yes:.1f} % yes [{low:.1f}, {high:.1f}]")
    if found["answered"]:
        numbers.append("score {:.2f} [{:.2f}, {:.2f}]".format(found["score"], *found["score_interval"]))
    parts = [f"{', '.join(numbers)} of {count_noun(found['answered'], 'answer')}" if numbers else "no answer"]
    if found["reasons"]:
        parts.append("failed: " + ", ".join(f"{number} {reason}" for reason, number in found["reasons"].items()))
    if found.get("derived"):
        parts.append(f"yes follows from the score in {found['derived']}")
    return f"{measure}: {'; '.join(parts)}."
