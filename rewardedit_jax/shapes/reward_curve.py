"""The curve of a reward-conditioned editor: its scores against the reward asked for, and each perspective alone at 0.

Every point is the mean over the same scenes, with a 95 % bootstrap interval over scenes of their means over seeds.
Scenes differ much more than edits of one scene: what a reward changes is therefore also given as a paired difference.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from rewardedit_jax.evaluation.charts import FAINT, GRID, INK, new_figure
from rewardedit_jax.evaluation.statistics import bootstrap_interval
from rewardedit_jax.reward import PERSPECTIVES
from rewardedit_jax.shapes.asked import ASKED, LEVELS, STEERED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Blue, vermilion and green of Okabe and Ito: told apart with every kind of colour vision. Markers differ as well.
_COLORS = ("#0072b2", "#d55e00", "#009e73")
_MARKERS = ("o", "s", "^")
_REFERENCE_STYLES = ("--", ":")
_OFFSET = 0.06  # between the lines' intervals, which would cover one another
_BAR_WIDTH = 0.26
_BEST = "5"
_BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class CurvePoint:
    """The mean of each perspective and the ends of its interval."""

    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class RewardCurve:
    """Scores of one arm by the label of the reward asked for, and means that it is compared with."""

    arm: str
    points: Mapping[str, CurvePoint]  # those of `ASKED` that were evaluated
    changes: Mapping[str, CurvePoint]  # label of `STEERED` → difference from asking for 5/5/5, paired by scene
    references: Mapping[str, tuple[float, ...]]  # name → means on the same scenes: training without reward, its data
    scenes: int
    seeds: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def make_curve(
    arm: str,
    scores: Mapping[str, Float[np.ndarray, "seeds scenes 3"]],
    references: Mapping[str, Float[np.ndarray, "seeds scenes 3"]],
) -> RewardCurve:
    """The curve on the scenes that all labels share: the first ones, as many as the label with the fewest has."""
    count = min(array.shape[1] for array in scores.values())
    scores = {label: scores[label][:, :count] for label in ASKED if label in scores}
    points = {label: _point(array) for label, array in scores.items()}
    changes = {label: _point(array - scores[_BEST]) for label, array in scores.items() if label in STEERED}
    means = {name: tuple(array[:, :count].mean((0, 1)).tolist()) for name, array in references.items()}
    seeds = next(iter(scores.values())).shape[0]
    return RewardCurve(arm, points, changes, means, count, seeds)


def _point(scores: Float[np.ndarray, "seeds scenes 3"]) -> CurvePoint:
    # The seeds are too few to resample. Their mean has less noise than the score of one seed.
    of_scenes = scores.mean(0, dtype=np.float64)
    intervals = [bootstrap_interval(partial(_mean_of, column), len(column), _BOOTSTRAP_SEED) for column in of_scenes.T]
    low, high = zip(*intervals, strict=True)
    return CurvePoint(tuple(of_scenes.mean(0).tolist()), low, high)


def _mean_of(values: Float[np.ndarray, " n"], drawn: np.ndarray) -> float:
    return float(values[drawn].mean())


def draw_curve(curve: RewardCurve) -> "Figure":
    """Left: a line for each perspective against the reward asked for. Right: bars, with one perspective asked at 0."""
    figure, (left, right) = new_figure(9.6, 4.6, columns=2)
    _draw_lines(left, curve)
    _draw_bars(right, curve)
    for axes in (left, right):
        axes.set_ylim(0, 5.1)  # room for the markers at 5
        axes.set_ylabel("score of the oracle judge")
        axes.grid(axis="y", color=GRID)
    seeds = "one training seed" if curve.seeds == 1 else f"mean of {curve.seeds} training seeds"
    intervals = "lines and brackets: 95 % bootstrap intervals over scenes; changes are paired by scene"
    note = f"{curve.arm}: {curve.scenes} held-out scenes, {seeds}; {intervals}"
    figure.supxlabel(note, color=FAINT, fontsize=9)
    figure.legend(*_legend(left, curve), loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    return figure


def _draw_lines(axes: "Axes", curve: RewardCurve) -> None:
    labels = [label for label in reversed(LEVELS) if label in curve.points]
    asked = np.asarray([float(label) for label in labels])
    for i, name in enumerate(PERSPECTIVES):
        for means, style in zip(curve.references.values(), _REFERENCE_STYLES, strict=False):
            axes.axhline(means[i], color=_COLORS[i], linestyle=style, linewidth=0.9)
        means, errors = _column(curve, labels, i)
        x = asked + (i - 1) * _OFFSET
        axes.errorbar(x, means, yerr=errors, color=_COLORS[i], marker=_MARKERS[i], markersize=5, capsize=2, label=name)
    axes.set_xticks(range(6))
    axes.set_xlabel("reward asked for, in all three perspectives")
    axes.set_title("all three perspectives asked for alike", loc="left", fontsize=11)


def _draw_bars(axes: "Axes", curve: RewardCurve) -> None:
    labels = [label for label in (_BEST, *STEERED) if label in curve.points]
    for i in range(len(PERSPECTIVES)):
        means, errors = _column(curve, labels, i)
        x = np.arange(len(labels)) + (i - 1) * _BAR_WIDTH
        # The outline marks the perspective that was asked for at 0.
        edges = [INK if ASKED[label][i] == 0 else _COLORS[i] for label in labels]
        axes.bar(x, means, _BAR_WIDTH, color=_COLORS[i], edgecolor=edges, linewidth=1.5)
        axes.errorbar(x, means, yerr=errors, ecolor=INK, elinewidth=1.1, capsize=2, fmt="none")
    axes.set_xticks(range(len(labels)), [_group_name(curve, label) for label in labels])
    axes.set_xlabel("reward asked for: following / preserving / quality;\nchange of the outlined score from 5/5/5")
    axes.set_title("one perspective alone asked for at 0 (outlined)", loc="left", fontsize=11)


def _group_name(curve: RewardCurve, label: str) -> str:
    """The scores asked for; below them, how the perspective asked for at 0 changes from asking for 5/5/5."""
    name = "/".join(map(str, ASKED[label]))
    if label not in curve.changes:
        return name
    change, i = curve.changes[label], ASKED[label].index(0)
    return f"{name}\n{change.mean[i]:+.2f}\n[{change.low[i]:+.2f}, {change.high[i]:+.2f}]"


def _column(curve: RewardCurve, labels: Sequence[str], i: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of perspective `i`, and the distances to the ends of their intervals, as matplotlib takes them."""
    points = [curve.points[label] for label in labels]
    mean, low, high = (np.asarray([getattr(p, field)[i] for p in points]) for field in ("mean", "low", "high"))
    # A percentile of the bootstrap may pass the mean by a rounding error, which matplotlib refuses as negative.
    return mean, np.maximum([mean - low, high - mean], 0)


def _legend(axes: "Axes", curve: RewardCurve) -> "tuple[list, list[str]]":
    """The three lines, and one gray line for each reference, whose colours are those of the perspectives."""
    handles, names = axes.get_legend_handles_labels()
    return [*handles, *_reference_handles(curve)], [*names, *curve.references]


def _reference_handles(curve: RewardCurve) -> "Iterator":
    from matplotlib.lines import Line2D

    for _, style in zip(curve.references, _REFERENCE_STYLES, strict=False):
        yield Line2D([], [], color=FAINT, linestyle=style, linewidth=1.2)
