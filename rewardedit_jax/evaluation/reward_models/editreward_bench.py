"""EditReward-Bench: the right order of two, three or four edits of one source, by any scorer.

Pairwise accuracy looks at every two edits of a group, strict accuracy at whole groups. The paper's "Overall" is the
share of all groups (it has 186, 150 and 148 of two, three and four edits) whose order is right, not the mean of the
three shares; every number here names its denominator. Not to be confused with EditScore's benchmark of the same name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from rewardedit_jax.evaluation.report import Report, Row, sound_share
from rewardedit_jax.evaluation.reward_models.agreement import (
    Human,
    Margin,
    cross_validated,
    published_threshold,
    right,
    right_without_ties,
)
from rewardedit_jax.evaluation.reward_models.editreward_bench_groups import Group
from rewardedit_jax.evaluation.reward_models.edits import OVERALL, Judge, note_transparent, score_edits
from rewardedit_jax.evaluation.reward_models.json_records import MOST_LISTED, listed

Scores = Float[np.ndarray, "_"]  # of the edits of one group, as many as it has


def evaluate_groups(groups: Sequence[Group], scorer: Judge, seed: int = 0, left_out: Sequence[str] = ()) -> Report:
    """Accuracies of a scorer's overall score.

    Args:
      left_out: keys of groups that cannot be measured, for the report to tell of.
    Raises:
      What `edits.score_edits` raises, and ValueError for no group, or a single group of two, which has no threshold.
    """
    if not groups:
        raise ValueError("there is no group of edits to be measured.")
    edits = [edit for group in groups for edit in group.edits]
    scores = score_edits(scorer, edits)[:, OVERALL]
    ends = np.cumsum([len(group.edits) for group in groups])
    report = measure_groups(groups, np.split(scores, ends[:-1]), seed)
    return report.noting(*_note_left_out(left_out)).noting(*note_transparent(scorer, edits))


def _note_left_out(keys: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    told = f"{len(keys)} groups with faults are left out, as asked: {listed(keys, between='; ')}."
    return [told] if keys else [], {"left_out": {"count": len(keys), "first": list(keys[:MOST_LISTED])}}


def measure_groups(groups: Sequence[Group], scores: Sequence[Scores], seed: int = 0) -> Report:
    """As `evaluate_groups`, of known scores.

    Args:
      seed: of the folds on which thresholds are chosen, and of the bootstrap.
    """
    scored = list(zip(groups, scores, strict=True))
    sizes = sorted({len(group.edits) for group in groups})
    told = {k: _measure([item for item in scored if len(item[0].edits) == k], seed) for k in sizes}
    named = {**{f"K = {k}": told[k] for k in sizes}, "overall": _all(list(told.values()), scored)}
    rows = [row for name, found in named.items() for row in _rows(name, found, seed)]
    counts = {
        name: {
            "groups": len(found.strict),
            "strictly_right": {"published": int(found.strict_published.sum()), "sound": int(found.strict.sum())},
        }
        for name, found in named.items()
    }
    notes = [
        "Published: the tie threshold is tuned on these groups, and only ties are held against it. Sound: it is chosen "
        "on other groups, and whoever prefers within it calls a tie.",
        "Overall strict: right groups of all groups.",
    ]
    values = {f"{row.measure}, {row.protocol}": 100 * row.value for row in rows} | {"counts": counts, "seed": seed}
    return Report("EditReward-Bench (%)", rows, notes, values, percent=True)


@dataclass(frozen=True, eq=False)
class _Told:
    """What is right, of groups of one size or of all."""

    strict_published: Bool[np.ndarray, " groups"]
    strict: Bool[np.ndarray, " groups"]
    pairwise_published: float
    pairwise: Int[np.ndarray, " groups"]  # how many pairs of each group
    pairs: Int[np.ndarray, " groups"]  # of how many


def _measure(scored: Sequence[tuple[Group, Scores]], seed: int) -> _Told:
    """Of groups of one size."""
    human, margin = pair_labels(scored)
    ordered = np.array([group.order == published_order(scores) for group, scores in scored])
    pairs = np.full(len(scored), len(human) // len(scored))
    if len(scored[0][0].edits) > 2:  # ties are neither given nor called
        strict = np.array([group.order == _strict_order(scores) for group, scores in scored])
        pairwise = right_without_ties(human, margin)
        return _Told(ordered, strict, float(pairwise.mean()), pairwise.reshape(len(scored), -1).sum(1), pairs)
    threshold = published_threshold(human, margin)
    strict_published = np.where(human == 0, np.abs(margin) <= threshold, ordered)
    sound = cross_validated(human, margin, seed)
    return _Told(strict_published, sound, float(right(human, margin, threshold).mean()), sound.astype(int), pairs)


def _all(told: Sequence[_Told], scored: Sequence[tuple[Group, Scores]]) -> _Told:
    """Of all groups; the published pairwise accuracy pools all pairs and tunes one threshold on them."""
    human, margin = pair_labels(scored)
    pooled = float(right(human, margin, published_threshold(human, margin)).mean())
    joined = {
        name: np.concatenate([getattr(t, name) for t in told])
        for name in ("strict_published", "strict", "pairwise", "pairs")
    }
    return _Told(pairwise_published=pooled, **joined)


def _rows(name: str, told: _Told, seed: int) -> list[Row]:
    groups, pairs = f"{len(told.strict)} groups", f"{told.pairs.sum()} pairs"
    return [
        Row(f"{name}, strict", "published", float(told.strict_published.mean()), groups),
        sound_share(f"{name}, strict", told.strict, "groups", seed),
        Row(f"{name}, pairwise", "published", told.pairwise_published, pairs),
        sound_share(f"{name}, pairwise", told.pairwise, "pairs", seed, told.pairs),
    ]


def pair_labels(scored: Sequence[tuple[Group, Scores]]) -> tuple[Human, Margin]:
    """Human verdict (1, -1, 0 for a tie) and margin of every two edits of every group."""
    human, margin = [], []
    for group, scores in scored:
        for i, j in combinations(range(len(group.edits)), 2):
            human.append(0 if group.order is None else 1 if group.order.index(i) < group.order.index(j) else -1)
            margin.append(scores[i] - scores[j])
    return np.asarray(human), np.asarray(margin, np.float64)


def published_order(scores: Scores) -> tuple[int, ...]:
    """Sorted upwards and reversed, as published: of equal scores the later edit counts as the better one."""
    return tuple(np.argsort(scores)[::-1].tolist())


def _strict_order(scores: Scores) -> tuple[int, ...] | None:
    """None where scores are equal, which is no order."""
    return published_order(scores) if len(np.unique(scores)) == len(scores) else None
