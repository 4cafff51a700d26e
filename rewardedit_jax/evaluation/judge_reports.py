"""How stable a judge is: repetitions and swapped images of one run, and two models on the same items.

"Yes" is a score of 5, as in the yes/no answers of Real-Edit's evaluation (Multi-Reward as Condition, arXiv:2411.04713),
whose judge agreed over five runs within 1 % in accuracy and 0.05 in score.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rewardedit_jax.evaluation.report import TextTable
from rewardedit_jax.evaluation.statistics import bootstrap_interval
from rewardedit_jax.judging.answers import Verdict
from rewardedit_jax.judging.judges import stored_questions
from rewardedit_jax.judging.plan import Plan
from rewardedit_jax.judging.questions import EDITED_FIRST, SOURCE_FIRST
from rewardedit_jax.judging.store import Store
from rewardedit_jax.reward import BEST, PERSPECTIVES

Scores = Float[np.ndarray, "edits questions"]  # 0..5; NaN where there is no verdict


def print_reports(plan: Plan, store: Store, other: Path | None = None, other_model: str | None = None) -> None:
    """Prints the tables about this run's judge that the store has answers for."""
    tables = stability(plan, store)
    if other is not None:
        with nullcontext(store) if other.exists() and other.samefile(store.path) else Store(other) as opened:
            tables.append(comparison(plan, store, opened, other_model))
    for table in tables:
        print(f"\n{table.to_text()}")


def stability(plan: Plan, store: Store, seed: int = 0) -> list[TextTable]:
    """Tables about repetitions and about the other order of the images, of what the plan has of either."""
    scores, tables = read_scores(plan, store), []
    repetitions = {name: _columns(plan, scores, name, SOURCE_FIRST) for name in PERSPECTIVES}
    if any(columns.shape[1] > 1 for columns in repetitions.values()):
        tables.append(_repetition_table(repetitions))
    swapped = {name: _columns(plan, scores, name, EDITED_FIRST) for name in PERSPECTIVES}
    if any(columns.shape[1] for columns in swapped.values()):
        pairs = {name: (_mean(swapped[name]), _mean(repetitions[name])) for name in PERSPECTIVES}
        tables.append(_difference_table("Edited image first, minus source first", pairs, seed))
    return tables


def comparison(plan: Plan, store: Store, other: Store, other_model: str | None = None, seed: int = 0) -> TextTable:
    """What changed from the answers of another store, or of another model in it, on the same edits.

    Raises:
      ValueError: the other store has no answers of this model, or those of several models.
    """
    questions = stored_questions(other, other_model)
    before = Plan(plan.data, questions, plan.indices, plan.digests)
    new, old = read_scores(plan, store), read_scores(before, other)
    pairs = {name: (_mean(_columns(plan, new, name)), _mean(_columns(before, old, name))) for name in PERSPECTIVES}
    models = [", ".join(sorted({question.model for question in asked})) for asked in (plan.questions, questions)]
    return _difference_table(f"{models[0]} ({store.path}), minus {models[1]} ({other.path})", pairs, seed)


def read_scores(plan: Plan, store: Store) -> Scores:
    """The scores of the plan's edits by question."""
    rows = [
        [outcome.score if isinstance(outcome, Verdict) else np.nan for outcome in outcomes]
        for _, outcomes in plan.outcomes(store)
    ]
    return np.asarray(rows, np.float64).reshape(-1, len(plan.questions))


def _columns(plan: Plan, scores: Scores, perspective: str, order: str | None = None) -> Scores:
    chosen = [q.perspective == perspective and order in (None, q.order) for q in plan.questions]
    return scores[:, np.asarray(chosen, bool)]


def _mean(scores: Scores) -> Float[np.ndarray, " edits"]:
    """The mean over the answered repetitions of each edit; NaN without one."""
    counts = (~np.isnan(scores)).sum(axis=1)
    return np.where(counts, np.nansum(scores, axis=1) / np.maximum(counts, 1), np.nan)


def _repetition_table(by_perspective: dict[str, Scores]) -> TextTable:
    heading = ("perspective", "edits", "runs", "mean score, lowest and highest run", "difference",
               "accuracy, lowest and highest run", "difference", "same score in all runs")  # fmt: skip
    rows = [row for name, scores in by_perspective.items() if (row := _repetition_row(name, scores))]
    # One denominator for all runs: else a run that lost hard items would look better.
    notes = ["Edits that were answered in every run. Accuracy: % of edits with score 5.",
             "The paper's judge: differences within 0.05 and 1 % over five runs."]  # fmt: skip
    return TextTable(heading, rows, "Repetitions", notes)


def _repetition_row(name: str, scores: Scores) -> Sequence[str]:
    scores = scores[~np.isnan(scores).any(axis=1)]
    edits, runs = scores.shape
    if not edits:
        return (name, "0", str(runs), *["undefined"] * 5)
    means, accuracies = scores.mean(axis=0), 100 * (scores == BEST).mean(axis=0)
    same = 100 * (scores == scores[:, :1]).all(axis=1).mean()
    return (
        name, str(edits), str(runs), f"{means.min():.3f} {means.max():.3f}", f"{np.ptp(means):.3f}",
        f"{accuracies.min():.1f} {accuracies.max():.1f}", f"{np.ptp(accuracies):.1f}", f"{same:.1f} %",
    )  # fmt: skip


class Change(NamedTuple):
    """How the scores of one perspective differ between two judgements of the same edits."""

    compared: int
    only_new: int  # edits without a score in the other judgement
    only_old: int
    difference: float  # mean of new minus old; NaN without a compared edit
    interval: tuple[float, float]  # 95 %, over edits
    confusion: tuple[int, int, int, int]  # yes → yes, yes → no, no → yes, no → no; from old to new


def change(new: Float[np.ndarray, " n"], old: Float[np.ndarray, " n"], seed: int = 0) -> Change:
    """The paired comparison of two judgements of n edits; NaN where an edit has no score."""
    both = ~np.isnan(new) & ~np.isnan(old)
    missing = int((np.isnan(old) & ~np.isnan(new)).sum()), int((np.isnan(new) & ~np.isnan(old)).sum())
    new, old = new[both], old[both]
    if not len(new):
        return Change(0, *missing, np.nan, (np.nan, np.nan), (0, 0, 0, 0))
    gaps, was, now = new - old, old == BEST, new == BEST
    confusion = tuple(int((a & b).sum()) for a, b in ((was, now), (was, ~now), (~was, now), (~was, ~now)))
    interval = bootstrap_interval(lambda drawn: gaps[drawn].mean(), len(gaps), seed)
    return Change(len(gaps), *missing, float(gaps.mean()), interval, confusion)


def _difference_table(title: str, pairs: dict[str, tuple[np.ndarray, np.ndarray]], seed: int) -> TextTable:
    heading = ("perspective", "edits", "missing", "difference of scores", "95 % interval",
               "yes → yes", "yes → no", "no → yes", "no → no")  # fmt: skip
    rows = []
    for name, (new, old) in pairs.items():
        found = change(new, old, seed)
        low, high = found.interval
        missing = f"{found.only_new} + {found.only_old}"
        numbers = f"{found.difference:+.3f}", f"[{low:+.3f}, {high:+.3f}]"
        rows.append((name, str(found.compared), missing, *numbers, *map(str, found.confusion)))
    notes = ["Paired over edits with a score in both; missing: without one in the second + in the first.",
             "Yes: score 5. The arrows lead from the second to the first."]  # fmt: skip
    return TextTable(heading, rows, title, notes)
