"""Rubrics: what a judge is asked about an edit, one text for each perspective.

The shipped texts are written for this package after the descriptions in Multi-Reward as Condition (arXiv:2411.04713,
section 4), whose own prompts are published only as a picture. A rubric is known by the hash of its text, which is part
of what an answer is stored under: answers to an older text are never taken for answers to a newer one.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from rewardedit_jax.data.json_files import read_text
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.reward import PERSPECTIVES

SHIPPED = Path(__file__).parent / "rubrics"
_INSTRUCTION = "{instruction}"
# The quality of an image can be judged without the request (Real-Edit's evaluation does), the others cannot.
_NEED_INSTRUCTION = ("following", "preserving")
_DIGITS = 12  # of the hash


@dataclass(frozen=True)
class Rubric:
    """The text that asks for the score of one perspective."""

    perspective: str  # one of PERSPECTIVES
    text: str  # with "{instruction}" where the request of the edit goes

    @property
    def digest(self) -> str:
        """The first 12 hexadecimal digits of the text's SHA-256, as `sha256sum FILE` prints them."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:_DIGITS]

    def about(self, instruction: str) -> str:
        """The question about an edit with this instruction."""
        # Not str.format: the texts contain JSON, whose braces would need doubling.
        return self.text.replace(_INSTRUCTION, instruction)


def read_rubrics(folder: Path = SHIPPED) -> dict[str, Rubric]:
    """The rubrics of a folder by perspective: following.txt, preserving.txt and quality.txt.

    Raises:
      BadRecords: a file is missing, not UTF-8, blank, or has no place for the instruction; the message names it.
    """
    return {perspective: _read(folder / f"{perspective}.txt", perspective) for perspective in PERSPECTIVES}


def _read(file: Path, perspective: str) -> Rubric:
    if not file.is_file():
        expected = ", ".join(f"{name}.txt" for name in PERSPECTIVES)
        raise BadRecords(f"no rubric {file}: expected {expected} in its folder.")
    text = read_text(file)
    if not text.strip():
        raise BadRecords(f"{file} is blank: write what the judge is asked, or copy {SHIPPED / file.name}.")
    if perspective in _NEED_INSTRUCTION and _INSTRUCTION not in text:
        raise BadRecords(f"{file} does not contain {_INSTRUCTION}: put it where the request of the edit goes.")
    return Rubric(perspective, text)
