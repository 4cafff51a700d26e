"""What was measured on a list of edits, what could not be, and why; as text and JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rewardedit_jax.data.runs import Failed
from rewardedit_jax.evaluation.report import TextTable
from rewardedit_jax.evaluation.statistics import bootstrap_interval
from rewardedit_jax.listing import count_noun, list_names

Outcomes = dict[str, float | Failed]  # key of an item → its value, or why it has none
Size = tuple[int, int]  # width, height


def outcome(value: float) -> float | Failed:
    """The value of an item; one that is infinite or NaN is a failure, as it would make the mean so."""
    return float(value) if np.isfinite(value) else Failed(f"its value is {value:g}")


@dataclass(frozen=True)
class Measured:
    """A metric over all items that have what it needs."""

    name: str
    better: str  # "lower" or "higher"
    value: float | None  # the mean over `items`, or the value of the two sets; None: all items were left out
    interval: tuple[float, float] | None  # 95 % bootstrap interval of a mean over items
    count: int  # items in the value
    items: Mapping[str, float]  # key → value; empty for a metric of sets
    left_out: Mapping[str, str]  # key → why the item has no value
    reason: str | None = None  # why there is no value, if not for each item

    @classmethod
    def over_items(cls, name: str, better: str, outcomes: Outcomes, seed: int) -> "Measured":
        """The mean over the items that have a value."""
        left_out = {key: found.reason for key, found in outcomes.items() if isinstance(found, Failed)}
        items = {key: found for key, found in outcomes.items() if key not in left_out}
        if not items:
            return cls(name, better, None, None, 0, items, left_out)
        values = np.array(list(items.values()))
        interval = bootstrap_interval(lambda drawn: float(values[drawn].mean()), len(values), seed)
        return cls(name, better, float(values.mean()), interval, len(values), items, left_out)

    def to_json(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "interval": self.interval,
            "items": self.count,
            "better": self.better,
            "left_out": self.left_out,
            "reason": self.reason,
        }


@dataclass
class PictureNotes:
    """What was noted while the pictures were read. Keys are those of items."""

    failed: dict[str, str] = field(default_factory=dict)  # key → which picture cannot be read, and why
    grayscale: list[str] = field(default_factory=list)  # edited pictures without colour
    # key → reference → sizes of the edited picture before and after it was resized to the reference's
    resized: dict[str, dict[str, tuple[Size, Size]]] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricReport:
    """The metrics of a list of edits."""

    keys: Sequence[str]  # of all items, failed ones included
    measured: Sequence[Measured]  # in the order of the table of metrics
    missing: Mapping[str, str]  # name of a metric that was asked for and not computed → why, and the remedy
    notes: PictureNotes
    texts: Mapping[str, int]  # which text of an item CLIP-T compares with → number of items

    def __getitem__(self, name: str) -> Measured:
        """The metric of a name. Raises KeyError that says why it is missing."""
        found = next((metric for metric in self.measured if metric.name == name), None)
        if found is None:
            raise KeyError(f"{name}: {self.missing.get(name, 'it was not asked for')}")
        return found

    def to_text(self) -> str:
        rows = [
            (
                metric.name,
                "–" if metric.value is None else f"{metric.value:.4f}",
                "[{:.4f}, {:.4f}]".format(*metric.interval) if metric.interval else "",
                f"{metric.count:,} of {len(self.keys):,}",
                metric.better,
            )
            for metric in self.measured
        ]
        heading = ("metric", "value", "95 % interval", "items", "better")
        return TextTable(heading, rows, notes=self._sentences()).to_text()

    def to_json(self) -> dict[str, Any]:
        """Every number, by metric and by item."""
        return {
            "metrics": {metric.name: metric.to_json() for metric in self.measured},
            "missing": self.missing,
            "failed": self.notes.failed,
            "grayscale": self.notes.grayscale,
            "resized": self.notes.resized,
            "clip_t_texts": self.texts,
            "items": [self._item(key) for key in self.keys],
        }

    def _item(self, key: str) -> dict[str, Any]:
        if key in self.notes.failed:
            return {"key": key, "error": self.notes.failed[key]}
        return {"key": key, **{metric.name: metric.items[key] for metric in self.measured if key in metric.items}}

    def _sentences(self) -> list[str]:
        grayscale, resized = self.notes.grayscale, self.notes.resized
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.missing.items():
            by_reason.setdefault(reason, []).append(name)
        found = [f"missing: {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
        if grayscale:
            found.append(f"{count_noun(len(grayscale), 'edited picture')} without colour: {list_names(grayscale)}.")
        for against in ("target", "source"):
            if keys := [key for key, sizes in resized.items() if against in sizes]:
                pictures = count_noun(len(keys), "edited picture")
                found.append(f"{pictures} resized (bicubic) to the size of the {against}: {list_names(keys)}.")
        for metric in self.measured:
            if metric.reason:
                found.append(f"{metric.name}: no value: {metric.reason}.")
            if metric.left_out:
                reason, count = next(iter(metric.left_out.values())), len(metric.left_out)
                found.append(f"{metric.name}: {count_noun(count, 'item')} left out, the first because {reason}.")
        return found
