"""The table of an experiment: means with intervals over items, values of every seed, and paired differences.

All experiments have the same form, as text, Markdown, JSON and a chart. Items are what a benchmark evaluates: scenes,
groups of edits, or photographs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from rewardedit_jax.evaluation.report import TextTable, plus_minus
from rewardedit_jax.evaluation.statistics import bootstrap_interval

Key = tuple[str, str]  # the arm, and what it was asked for
_NOTHING = ("", "none")  # asked for
_BOOTSTRAP_SEED = 0


def key_title(key: Key) -> str:
    """The arm and what it was asked for."""
    return key[0] if key[1] in _NOTHING else " ".join(key)


@dataclass(frozen=True, eq=False)
class Samples:
    """What one measure found in each item. Its value is the sum over items, divided by the number counted in them.

    A value that is no mean over items, such as a calibration error, has one item and no interval.
    """

    sums: Float[np.ndarray, "seeds items"]
    counts: Float[np.ndarray, " items"]  # of what is summed in an item: the pairs of a group; 1 for a score

    @classmethod
    def of(cls, values: Float[np.ndarray, "seeds items"]) -> "Samples":
        """One value per item."""
        return cls(np.asarray(values, np.float64), np.ones(values.shape[1]))

    def minus(self, other: "Samples") -> "Samples":
        """The difference, paired by item and seed. One seed stands for all, if only one side has several."""
        if self.sums.shape[1] != other.sums.shape[1] or not np.array_equal(self.counts, other.counts):
            raise ValueError(f"unequal items: {self.sums.shape[1]} and {other.sums.shape[1]}; differences are paired")
        return Samples(self.sums - other.sums, self.counts)

    def estimate(self) -> "Estimate":
        total = self.counts.sum()
        if not total:
            return Estimate(float("nan"), None, (float("nan"),) * len(self.sums))
        per_seed = self.sums.sum(1) / total
        return Estimate(float(per_seed.mean()), self._interval(), tuple(per_seed.tolist()))

    def _interval(self) -> tuple[float, float] | None:
        # The seeds are too few to resample. Their mean has less noise than one of them.
        # Items that do not count are left out of the bootstrap, which else might draw no others.
        counted = self.counts > 0
        of_items, counts = self.sums.mean(0)[counted], self.counts[counted]
        if len(self.counts) < 2:
            return None
        return bootstrap_interval(lambda i: of_items[i].sum() / counts[i].sum(), len(counts), _BOOTSTRAP_SEED)


@dataclass(frozen=True)
class Estimate:
    """A measured value."""

    mean: float  # over seeds and items; NaN where nothing was counted
    interval: tuple[float, float] | None  # 95 %, over items, of their means over seeds
    per_seed: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        mean = None if np.isnan(self.mean) else self.mean  # JSON has no NaN
        return {
            "mean": mean,
            "interval": self.interval,
            "per_seed": [None if np.isnan(x) else x for x in self.per_seed],
        }

    def text(self, spec: str, several: bool) -> str:
        """Of several seeds, the mean ± standard deviation over seeds; of one, the mean and its interval."""
        if np.isnan(self.mean):
            return "–"
        if several:
            # In a table of several seeds, what does not depend on the seed has no spread.
            return plus_minus(self.mean, np.std(self.per_seed, ddof=1) if len(self.per_seed) > 1 else None, spec)
        return f"{self.mean:{spec}}" + (
            f" [{self.interval[0]:{spec}}, {self.interval[1]:{spec}}]" if self.interval else ""
        )


@dataclass(frozen=True)
class Line:
    """One arm, asked for one thing."""

    arm: str
    asked: str
    values: Mapping[str, Estimate]  # by measure
    over: Key | None = None  # what `gains` are differences from
    gains: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Lines in the order given, and what is to be said about them."""

    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)  # further entries of the JSON file
    further: tuple[TextTable, ...] = ()  # shown below
    spec: str = ".2f"  # format of the values
    show_gains: bool = True  # as columns of the text; the JSON file always has them

    def with_notes(self, *notes: str, **details: Any) -> "Table":
        return replace(self, notes=(*self.notes, *notes), details={**self.details, **details})

    def line(self, arm: str, asked: str = "") -> Line:
        return next(line for line in self.lines if (line.arm, line.asked) == (arm, asked))

    @property
    def measures(self) -> list[str]:
        """In the order of the line that has most of them."""
        lines = sorted(self.lines, key=lambda line: -len(line.values))
        return list(dict.fromkeys(name for line in lines for name in line.values))

    @property
    def seeds(self) -> int:
        return max(len(value.per_seed) for line in self.lines for value in line.values.values())

    def to_json(self) -> dict[str, Any]:
        """`rows`, `differences` and `notes`, which all experiments have, and `details`."""
        rows = [
            {"arm": line.arm, "asked": line.asked, "measure": name, **value.to_json()}
            for line in self.lines
            for name, value in line.values.items()
        ]
        differences = [
            {"arm": line.arm, "asked": line.asked, "over": line.over, "measure": name, **value.to_json()}
            for line in self.lines
            for name, value in line.gains.items()
        ]
        return {"rows": rows, "differences": differences, "notes": self.notes, "details": self.details}

    def to_text(self) -> str:
        return "\n\n".join(table.to_text() for table in self._tables())

    def to_markdown(self) -> str:
        return "\n\n".join(table.to_markdown() for table in self._tables())

    def _tables(self) -> list[TextTable]:
        gains = [name for name in self.measures if self.show_gains and any(name in line.gains for line in self.lines)]
        names = ["arm", "asked for"][: 1 + any(line.asked for line in self.lines)]
        heading = [*names, *self.measures, *(f"Δ {name}" for name in gains)]
        rows = [
            [*(line.arm, line.asked)[: len(names)],
             *self._cells(line.values, self.measures), *self._cells(line.gains, gains, "+")]
            for line in self.lines
        ]  # fmt: skip
        notes = [self._uncertainty(), *(self._gains_note() if gains else []), *self.notes]
        return [TextTable(heading, rows, notes=notes), *self.further]

    def _cells(self, values: Mapping[str, Estimate], names: Sequence[str], sign: str = "") -> list[str]:
        several = self.seeds > 1
        return [values[name].text(f"{sign}{self.spec}", several) if name in values else "" for name in names]

    def _uncertainty(self) -> str:
        if self.seeds > 1:
            return f"Means over {self.seeds} training seeds ± standard deviation over seeds."
        if any(value.interval for line in self.lines for value in line.values.values()):
            return "One training seed; in brackets: 95 % bootstrap intervals over items."
        return "One training seed."

    def _gains_note(self) -> list[str]:
        over = dict.fromkeys(key_title(line.over) for line in self.lines if line.over)
        return [f'Δ: over "{name}", paired by item and seed.' for name in over]


def make_table(
    samples: Mapping[Key, Mapping[str, Samples]],
    baseline: Key | None = None,
    fixed: Mapping[str, Mapping[str, Samples]] = MappingProxyType({}),
) -> Table:
    """A line for each of `fixed` and each (arm, asked), with gains over the baseline where `samples` has it.

    Args:
      fixed: name → measure → samples of what no arm made; it has no gains.
    """
    base = samples.get(baseline) if baseline else None
    lines = [Line(name, "", {m: s.estimate() for m, s in found.items()}) for name, found in fixed.items()]
    for key, found in samples.items():
        values = {name: one.estimate() for name, one in found.items()}
        if base is None or key == baseline:
            lines.append(Line(*key, values))
        else:
            gains = {name: one.minus(base[name]).estimate() for name, one in found.items() if name in base}
            lines.append(Line(*key, values, baseline, gains))
    return Table(tuple(lines))
