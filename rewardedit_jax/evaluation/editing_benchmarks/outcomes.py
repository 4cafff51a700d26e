"""What became of each edit of a benchmark: for each measure a score, or a failure with a reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from rewardedit_jax.judging.answers import NoVerdict, Verdict
from rewardedit_jax.judging.plan import NOT_ASKED, Plan
from rewardedit_jax.judging.store import Store

# Reasons of items that no judge was asked about. Those of the judges are in `judging`.
NO_IMAGE, NOT_EDITED = "missing image", "not edited"  # the benchmark's image is missing or damaged; the editor failed
NO_EDIT, UNREADABLE_EDIT = "no edit", "unreadable edit"  # the folder of edits lacks it; its file is damaged
# Where a judge gives a score without a yes or no, scores from here on are a yes: of 5, "with a small deviation".
YES_FROM = 4.0


@dataclass(frozen=True)
class Outcome:
    """One measure of one edit: the mean over the answered repetitions, or why there is no answer."""

    score: float | None = None
    yes: float | None = None  # 1 or 0, between them where repetitions differ; None: the measure has no yes or no
    derived: bool = False  # the yes or no follows from the score, because the judge gave none
    scores: tuple[float, ...] = field(default=())  # the parts of a score that has several
    failure: NoVerdict | None = None

    def to_json(self) -> dict[str, Any]:
        if self.failure is not None:
            return {"failed": self.failure.reason, "detail": self.failure.detail}
        more = {} if self.yes is None else {"yes": self.yes, "derived": self.derived}
        return {"score": self.score, **more} | ({"scores": list(self.scores)} if self.scores else {})


def read_outcomes(plan: Plan, store: Store, failures: Mapping[str, NoVerdict]) -> dict[str, dict[str, Outcome]]:
    """Key of each edit → measure → outcome; the measures are those with a form in the plan.

    Args:
      failures: of items without an edit, by key.
    """
    found: dict[str, dict[str, Outcome]] = {}
    for key, outcomes in plan.outcomes(store):
        named = list(zip(plan.questions, outcomes, strict=True))
        found[key] = {
            measure: Outcome(failure=failures[key])
            if key in failures
            else _joined([outcome for question, outcome in named if question.perspective == measure], bool(form.yes_no))
            for measure, form in plan.forms.items()
        }
    return found


def _joined(answers: Sequence[Verdict | NoVerdict], has_yes: bool) -> Outcome:
    verdicts = [answer for answer in answers if isinstance(answer, Verdict)]
    if not verdicts:
        return Outcome(failure=next(iter(answers), NoVerdict(NOT_ASKED)))
    score, scores = fmean(verdict.score for verdict in verdicts), verdicts[0].scores
    if len(verdicts) > 1 and scores:
        scores = tuple(map(fmean, zip(*(verdict.scores for verdict in verdicts), strict=True)))
    if not has_yes:
        return Outcome(score, scores=scores)
    said = [verdict.score >= YES_FROM if verdict.yes is None else verdict.yes for verdict in verdicts]
    return Outcome(score, fmean(said), any(verdict.yes is None for verdict in verdicts), scores)
