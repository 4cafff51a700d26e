"""What a run has to ask: the questions about each edit, and which of their answers the store lacks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from rewardedit_jax.data.encoded import StoredEdits, digest
from rewardedit_jax.judging.answers import DEFAULT_FORM, AnswerForm, NoVerdict, Verdict, read_answer
from rewardedit_jax.judging.judges import UNREADABLE_IMAGE, Request
from rewardedit_jax.judging.questions import EditId, Question
from rewardedit_jax.judging.store import Answer, Store

NOT_ASKED = "not asked"  # the reason of an item that the store knows nothing about
_CHUNK = 500  # edits that are looked up at a time


@dataclass(frozen=True, eq=False)
class Plan:
    """The questions about each edit of the data."""

    data: StoredEdits
    questions: Sequence[Question]
    indices: Sequence[int]  # of the edits to judge
    digests: Sequence[bytes | NoVerdict]  # `EditId.digest` of each of them, or why the edit cannot be read
    forms: Mapping[str, AnswerForm] = field(default_factory=dict)  # of answers, by measure; others have the default

    @classmethod
    def make(
        cls,
        data: StoredEdits,
        questions: Sequence[Question],
        indices: Sequence[int] | None = None,
        forms: Mapping[str, AnswerForm] | None = None,
    ) -> "Plan":
        """Reads the digests of all images, from the index of a prepared data set or from the image files."""
        indices = range(len(data)) if indices is None else indices
        found: list[bytes | NoVerdict] = []
        for chunk in tqdm(
            _chunks(indices), "digests", unit_scale=_CHUNK, unit=" edits", disable=len(indices) <= _CHUNK
        ):
            for identity in data.identities(chunk):
                failed = isinstance(identity, ValueError)
                found.append(NoVerdict(UNREADABLE_IMAGE, str(identity)) if failed else EditId(*identity).digest)
        return cls(data, questions, indices, found, forms or {})

    @property
    def items(self) -> int:
        """The number of questions about all edits."""
        return len(self.indices) * len(self.questions)

    def keys(self, edit: bytes) -> list[bytes]:
        """The keys of the answers about an edit, in the order of the questions."""
        return [question.id + edit for question in self.questions]

    def outcomes(self, store: Store) -> Iterator[tuple[str, list[Verdict | NoVerdict]]]:
        """The key of each edit with its outcomes, in the order of the questions."""
        names = self.data.keys()
        for chunk, digests in zip(_chunks(self.indices), _chunks(self.digests), strict=True):
            replies = store.replies([key for edit in digests if isinstance(edit, bytes) for key in self.keys(edit)])
            for index, edit in zip(chunk, digests, strict=True):
                if isinstance(edit, NoVerdict):
                    yield names[index], [edit] * len(self.questions)
                else:
                    keys = zip(self.questions, self.keys(edit), strict=True)
                    yield names[index], [self.read(question, replies.get(key)) for question, key in keys]

    def read(self, question: Question, reply: Answer | NoVerdict | None) -> Verdict | NoVerdict:
        """What a reply of the store to a question says."""
        if isinstance(reply, Answer):
            return read_answer(reply.text, reply.finish, self.forms.get(question.perspective, DEFAULT_FORM))
        return reply or NoVerdict(NOT_ASKED)

    def due(self, store: Store, ask_again: bool = False) -> "Due":
        """What the store lacks. With `ask_again` also what has an answer without a verdict."""
        # Equal edits have one answer: the first of them is asked about.
        first = {digest: n for n, digest in reversed(list(enumerate(self.digests))) if isinstance(digest, bytes)}
        flags = []
        for question in self.questions:
            answered = store.answered(question)
            if ask_again:
                answered -= self._without_verdict(store, question, answered)
            flags.append(bytes(first.get(d) == n and d not in answered for n, d in enumerate(self.digests)))
        return Due(self, flags)

    def _without_verdict(self, store: Store, question: Question, edits: set[bytes]) -> set[bytes]:
        keys = [question.id + edit for edit in sorted(edits)]
        replies = (store.replies(keys[i : i + _CHUNK]).items() for i in range(0, len(keys), _CHUNK))
        failed = (key for found in replies for key, reply in found if not self._is_read(question, reply))
        return {key[len(question.id) :] for key in failed}

    def _is_read(self, question: Question, reply: Answer | NoVerdict) -> bool:
        return isinstance(self.read(question, reply), Verdict)


@dataclass(frozen=True, eq=False)
class Due:
    """The items of a plan that are to be asked."""

    plan: Plan
    flags: Sequence[bytes]  # for each question a byte per edit: 1 if it is due

    def __len__(self) -> int:
        return sum(map(sum, self.flags))

    def requests(self, store: Store) -> Iterator[Request]:
        """The due questions, edit by edit, so that a run that stops leaves complete labels."""
        plan = self.plan
        for n, due in enumerate(zip(*self.flags, strict=True)):
            if not any(due):
                continue
            store.check_room()
            stored = plan.data.encoded(plan.indices[n])
            edit = EditId(digest(stored.source), digest(stored.edited), stored.instruction)
            if edit.digest != plan.digests[n]:
                raise ValueError(f"edit {stored.key} is not the one that it was when this run started: start again.")
            for question, is_due in zip(plan.questions, due, strict=True):
                if is_due:
                    yield Request(question, edit, plan.indices[n], stored)


def _chunks(items: Sequence) -> list[Sequence]:
    return [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
