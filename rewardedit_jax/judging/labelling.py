"""A labelling run: what the store lacks is asked, and the store's answers become labels.

The labels follow from the data, the questions and the store alone, so a run that was killed and went on, and a replay
without network, write the same bytes.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm import tqdm

from rewardedit_jax.data import json_files
from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.judging.answers import NoVerdict, Verdict
from rewardedit_jax.judging.judges import Judge, Request
from rewardedit_jax.judging.plan import Plan
from rewardedit_jax.judging.questions import Question
from rewardedit_jax.judging.store import Answer, Store
from rewardedit_jax.reward import PERSPECTIVES

_FIRST_FAILURES = 10  # that a summary names


def ask(plan: Plan, judge: Judge, store: Store, ask_again: bool = False) -> None:
    """Has the judge answer what the store lacks. Each outcome is stored as it comes."""
    store.add_questions(plan.questions)
    due, counts = plan.due(store, ask_again), Counter()
    if not due:
        return
    interval = 0.5 if sys.stderr.isatty() else 30  # seconds; every update is a line of its own in a log file
    with tqdm(total=len(due), desc="asking", unit=" items", mininterval=interval) as bar:

        def keep(request: Request, outcome: Answer | NoVerdict) -> None:
            if isinstance(outcome, Answer):
                store.add_answer(request.key, request.edit, outcome)
                outcome = plan.read(request.question, outcome)
            else:
                store.add_failure(request.key, outcome, datetime.now(UTC).isoformat(timespec="seconds"))
            counts["answered" if isinstance(outcome, Verdict) else outcome.reason] += 1
            bar.set_postfix(counts, refresh=False)
            bar.update()

        judge.answer(due.requests(store), keep)


@dataclass
class Summary:
    """The outcomes of all items of a run."""

    answered: int = 0
    repaired: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # of items without a verdict
    first: list[str] = field(default_factory=list)  # sentences about the first of them

    @property
    def failed(self) -> int:
        return self.reasons.total()

    def count(self, key: str, questions: Sequence[Question], outcomes: Sequence[Verdict | NoVerdict]) -> None:
        """Counts the outcomes of one edit."""
        for question, outcome in zip(questions, outcomes, strict=True):
            if isinstance(outcome, Verdict):
                self.answered += 1
                self.repaired += outcome.repaired
                continue
            self.reasons[outcome.reason] += 1
            if len(self.first) < _FIRST_FAILURES:
                self.first.append(f"{key}, {question.perspective}: {outcome.reason}. {outcome.detail}".rstrip(" ."))

    def to_text(self) -> str:
        lost = "".join(f", {count} {reason}" for reason, count in self.reasons.most_common())
        return f"{self.answered + self.failed} items: {self.answered} answered ({self.repaired} repaired){lost}."


def summarize(plan: Plan, store: Store) -> Summary:
    """What the store has, without labels."""
    summary = Summary()
    for key, outcomes in plan.outcomes(store):
        summary.count(key, plan.questions, outcomes)
    return summary


def write_labels(plan: Plan, store: Store, file: Path) -> Summary:
    """Writes a line for each edit of the plan, in its order, from what the store has. The file is whole or absent."""
    summary = Summary()
    judged_by = {name: ", ".join(sorted({getattr(q, name) for q in plan.questions})) for name in ("judge", "model")}
    with atomic_write(file) as unfinished, unfinished.open("wb") as lines:
        for key, outcomes in plan.outcomes(store):
            summary.count(key, plan.questions, outcomes)
            lines.write(json_files.to_line(_label(key, plan.questions, outcomes) | judged_by))
    return summary


def _label(key: str, questions: Sequence[Question], outcomes: Sequence[Verdict | NoVerdict]) -> dict[str, Any]:
    """A line of labels: the mean score over repetitions, and the feedback of the answer nearest to it."""
    pairs = list(zip(questions, outcomes, strict=True))
    by_perspective = [
        [outcome for question, outcome in pairs if question.perspective == name and isinstance(outcome, Verdict)]
        for name in PERSPECTIVES
    ]
    means = [fmean(verdict.score for verdict in found) if found else None for found in by_perspective]
    nearest = [
        min(found, key=lambda verdict: abs(verdict.score - mean)).feedback if found else None
        for found, mean in zip(by_perspective, means, strict=True)
    ]
    failures = [
        {
            "perspective": question.perspective,
            "reason": outcome.reason,
            "detail": outcome.detail,
            "repetition": question.repetition,
            "order": question.order,
        }
        for question, outcome in pairs
        if isinstance(outcome, NoVerdict)
    ]
    return {"key": key, "scores": means, "feedback": nearest, "failures": failures}
