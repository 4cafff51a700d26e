"""The protocol of a judge, and the judges that need no endpoint: stored answers and our own scorer."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from rewardedit_jax.data.encoded import EncodedEdit
from rewardedit_jax.data.images import ImageError
from rewardedit_jax.judging.answers import NoVerdict
from rewardedit_jax.judging.questions import ORDERS, EditId, Question, ask_each
from rewardedit_jax.judging.store import Answer, Store
from rewardedit_jax.listing import list_lines
from rewardedit_jax.reward import BEST, PERSPECTIVES

# Reasons of items that a judge was not able to answer; the next run asks them again.
UNREADABLE_IMAGE, NOT_JUDGED = "unreadable image", "not judged"


class Request(NamedTuple):
    """One question about one edit."""

    question: Question
    edit: EditId
    index: int  # of the edit in its data
    stored: EncodedEdit

    @property
    def key(self) -> bytes:
        return self.question.id + self.edit.digest


Keep = Callable[[Request, Answer | NoVerdict], None]  # stores the outcome of a request


@runtime_checkable
class Judge(Protocol):
    """Whoever writes rewards."""

    def questions(self, repeat: int = 1, swap: bool = False) -> list[Question]:
        """The questions about each edit, as `questions.ask_each`."""

    def answer(self, requests: Iterator[Request], keep: Keep) -> None:
        """Answers requests in any order, and hands each outcome to `keep` as soon as it is known.

        Requests come edit by edit, so that what a judge prepares for one question serves the next. An error ends the
        run; outcomes that `keep` has received stay.
        """


def stored_questions(
    store: Store,
    model: str | None = None,
    rubrics: Sequence[str] | None = None,
    images: str | None = None,
    repeat: int | None = None,
    measures: Sequence[str] = PERSPECTIVES,
) -> list[Question]:
    """The questions whose stored answers a replay takes: all of one judge, model, set of rubrics and image settings.

    Args:
      model, rubrics, images: take those of this model, these rubrics (hashes), these settings (`ImageSettings.name`);
        None: of the only ones in the store.
      repeat: take the first repetitions only; None: all.
      measures: take the questions about these, in this order.
    Raises:
      ValueError: the store has no such answers, or those of several models, rubrics or image settings.
    """
    found = store.questions()
    chosen = [q for q in found if q.perspective in measures]
    chosen = [q for q in chosen if model in (None, q.model) and images in (None, q.images)]
    chosen = [q for q in chosen if rubrics is None or q.rubric in rubrics]
    if not chosen:
        raise ValueError(_describe(f"{store.path} has no answers that were asked for so, but", found))
    by_perspective = {(q.perspective, q.judge, q.model, q.rubric, q.images) for q in chosen}
    if len(by_perspective) > len({perspective for perspective, *_ in by_perspective}):
        choice = "choose by --model (in launch/evaluate.py --judge-model) and --rubrics."
        raise ValueError(_describe(f"{store.path} has several sets of answers: {choice}", chosen))
    wanted = [question for question in chosen if repeat is None or question.repetition < repeat]
    # Questions about one edit are asked by measure, first with the source first, by repetition.
    return sorted(wanted, key=lambda q: (measures.index(q.perspective), ORDERS.index(q.order), q.repetition))


def _describe(heading: str, questions: Sequence[Question]) -> str:
    lines = {
        f"{q.judge}, model {q.model}, images {q.images or 'as stored'}: {q.perspective} {q.rubric}" for q in questions
    }
    return list_lines(heading, sorted(lines) or ["nothing"])


@dataclass(frozen=True, eq=False)
class ScorerJudge:
    """Our own reward model as a judge. A score is 5 times the share of the scorer's reference edits that are beaten.

    The scorer judges following and quality; preserving is a failure "not judged". It writes no feedback: the text is
    empty, which says nothing, where "None" would say that nothing failed.
    """

    scorer: Any  # a calibrated `Scorer`, whose module takes seconds to import
    batch_size: int = 8

    @classmethod
    def load(cls, model: str | Path, base: str | Path | None = None, dtype: str | None = None) -> "ScorerJudge":
        from rewardedit_jax.scoring.scorer import Scorer

        scorer = Scorer.load(model, base, dtype)
        if scorer.calibration is None:
            raise ValueError(
                f"{model} is not calibrated, so its scores have no unit: calibrate it on reference edits of yours, "
                "Scorer.calibrate(...).save(...), and judge with the result."
            )
        return cls(scorer)

    def questions(self, repeat: int = 1, swap: bool = False) -> list[Question]:
        # The network gives the same score each time, and has no order of images to change.
        return ask_each("scorer", self.scorer.fingerprint, dict.fromkeys(PERSPECTIVES, ""))

    def answer(self, requests: Iterator[Request], keep: Keep) -> None:
        while some := list(islice(requests, 3 * self.batch_size)):
            self._answer(some, keep)

    def _answer(self, requests: Sequence[Request], keep: Keep) -> None:
        from rewardedit_jax.scoring.edit_score import Unscorable

        edits = {request.index: request.stored for request in requests}
        items = [self._item(edit) for edit in edits.values()]
        scores = dict(zip(edits, self.scorer.stream(items, batch_size=self.batch_size, improvement=False), strict=True))
        for request in requests:
            score, perspective = scores[request.index], request.question.perspective
            if isinstance(score, Unscorable):
                keep(request, NoVerdict(UNREADABLE_IMAGE, score.reason))
            elif perspective not in self.scorer.perspectives:
                keep(request, NoVerdict(NOT_JUDGED, f"the scorer has no prompt for {perspective}"))
            else:
                # The reference has overall scores only; the score of a perspective is compared with those.
                head = score.raw[self.scorer.perspectives.index(perspective)]
                (share,) = self.scorer.calibration.shares(head[None])
                keep(request, Answer(json.dumps({"score": BEST * share, "feedback": ""}), "stop"))

    def _item(self, edit: EncodedEdit) -> Any:
        from rewardedit_jax.scoring.edit_score import Unscorable

        try:
            record = edit.decoded()
            return self.scorer.prepare(record.source, record.edited, record.instruction)
        except (ImageError, ValueError) as error:
            return Unscorable(str(error))
