"""Rubrics: what a judge is asked about an edit, one text for each measure, and the form of the answer.

The shipped texts are written for this package after the descriptions in Multi-Reward as Condition (arXiv:2411.04713,
section 4), whose own prompts are published only as a picture. A rubric is known by the hash of its text, which is part
of what an answer is stored under: answers to an older text are never taken for answers to a newer one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from rewardedit_jax.data.json_files import read_text
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.judging.answers import DEFAULT_FORM, AnswerForm

SHIPPED = Path(__file__).parent / "rubrics"
SOURCE, EDITED = BOTH = ("source", "edited")  # images that a rubric can show
_INSTRUCTION = "{instruction}"
_DIGITS = 12  # of the hash


@dataclass(frozen=True)
class Rubric:
    """What a judge is asked to measure. Without its text: what the file of a rubric is read for."""

    measure: str  # one of PERSPECTIVES, or another measure of a benchmark; also the name of its file
    text: str = ""  # with "{instruction}" where the request of the edit goes
    form: AnswerForm = DEFAULT_FORM
    shows: tuple[str, ...] = BOTH
    needs_instruction: bool = True

    @property
    def text_digest(self) -> str:
        """The first 12 hexadecimal digits of the text's SHA-256, as `sha256sum FILE` prints them."""
        return _digest(self.text)

    @property
    def digest(self) -> str:
        """The hash that answers are stored under: `text_digest`, and of all fields if form or images are not the usual.

        So a text that is asked in another form, or with other images, is another question.
        """
        if (self.form, self.shows) == (DEFAULT_FORM, BOTH):
            return self.text_digest
        return _digest(repr((self.text, astuple(self.form), self.shows)))

    def about(self, instruction: str) -> str:
        """The question about an edit with this instruction."""
        # Not str.format: the texts contain JSON, whose braces would need doubling.
        return self.text.replace(_INSTRUCTION, instruction)


# The quality of an image can be judged without the request (Real-Edit's evaluation does), the others cannot.
OF_PERSPECTIVES = (Rubric("following"), Rubric("preserving"), Rubric("quality", needs_instruction=False))


def read_rubrics(folder: Path = SHIPPED, asked: Sequence[Rubric] = OF_PERSPECTIVES) -> dict[str, Rubric]:
    """The rubrics of a folder by measure, with the texts of their files: following.txt and so on.

    Raises:
      BadRecords: a file is missing, not UTF-8, blank, or has no place for the instruction; the message names it.
    """
    return {rubric.measure: _read(folder / f"{rubric.measure}.txt", rubric, asked) for rubric in asked}


def _read(file: Path, rubric: Rubric, asked: Sequence[Rubric]) -> Rubric:
    if not file.is_file():
        expected = ", ".join(f"{other.measure}.txt" for other in asked)
        raise BadRecords(f"no rubric {file}: expected {expected} in its folder.")
    text = read_text(file)
    if not text.strip():
        raise BadRecords(f"{file} is blank: write what the judge is asked, or copy the rubric that ships.")
    if rubric.needs_instruction and _INSTRUCTION not in text:
        raise BadRecords(f"{file} does not contain {_INSTRUCTION}: put it where the request of the edit goes.")
    return replace(rubric, text=text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
