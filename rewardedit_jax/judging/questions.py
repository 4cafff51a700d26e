"""What a judge is asked, and the key of its answer.

An answer depends on the question (judge, model, rubric, how images are sent, repetition) and on the edit (both images,
the instruction). The key of an answer is the digest of the one followed by the digest of the other: equal questions
about equal edits have one answer, whatever list the edit is in and whatever its key there.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import NamedTuple

SOURCE_FIRST, EDITED_FIRST = ORDERS = ("source first", "edited first")
# Part of every question. It changes with what a message has besides the fields below: image labels, the answer's form.
_FORM = 1
_QUESTION_BYTES, _EDIT_BYTES = 8, 16


@dataclass(frozen=True)
class Question:
    """All that an answer depends on, except the edit."""

    judge: str  # "openai", "scorer", "oracle"
    model: str  # the name that the endpoint is asked for, or the fingerprint of a scorer
    perspective: str  # one of PERSPECTIVES, or another measure of a benchmark
    rubric: str  # hash of the rubric's text; "" for judges without one
    images: str  # how images are sent, `ImageSettings.name`; "" for judges that read them as stored
    order: str  # one of ORDERS: which image comes first
    repetition: int  # from 0

    @cached_property
    def id(self) -> bytes:
        """8 bytes, the first part of the keys of its answers."""
        return _digest(json.dumps([_FORM, *astuple(self)]), _QUESTION_BYTES)


class EditId(NamedTuple):
    """An edit as a judge knows it."""

    source: str  # SHA-256 of the encoded image, hexadecimal
    edited: str
    instruction: str

    @property
    def digest(self) -> bytes:
        """16 bytes, the second part of the keys of answers about it."""
        # The two digests have a fixed length, so that no separator is needed.
        return _digest(self.source + self.edited + self.instruction, _EDIT_BYTES)


def edit_of(key: bytes) -> bytes:
    """The digest of the edit that an answer is about."""
    return key[_QUESTION_BYTES:]


def ask_each(
    judge: str, model: str, rubrics: Mapping[str, str], images: str = "", repeat: int = 1, swap: bool = False
) -> list[Question]:
    """The questions about one edit: for each measure the repetitions, then with `swap` the other order of images.

    Args:
      rubrics: hash by measure, in the order in which they are asked.
      repeat: number of repetitions with the source first.
    """
    forms: Sequence[tuple[str, int]] = [(SOURCE_FIRST, i) for i in range(repeat)]
    forms = [*forms, (EDITED_FIRST, 0)] if swap else forms
    return [Question(judge, model, name, rubric, images, *form) for name, rubric in rubrics.items() for form in forms]


def _digest(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()
