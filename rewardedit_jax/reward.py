"""The reward of an edit: three scores 0..5 and three feedback texts, by perspective.

Multi-Reward as Condition (Gu et al., ICLR 2025, arXiv:2411.04713), section 4: each triplet is judged for instruction
following, detail preserving and generation quality.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np
from jaxtyping import Float

from rewardedit_jax.arguments import as_number, is_text, shown

PERSPECTIVES = ("following", "preserving", "quality")
BEST, WORST = 5.0, 0.0
# The feedback text where nothing failed. Published weights were trained with this word.
NOTHING_FAILED = "None"


@dataclass(frozen=True)
class Reward:
    """Three scores in 0..5 and, optionally, three texts on what failed, in the order of `PERSPECTIVES`.

    `feedback=None` means that nothing failed. `Reward()` asks for the best edit. A score may be a number of Python or
    NumPy, or an array without axes. Any other value, NaN and infinity included, is a ValueError that names the score.
    """

    following: SupportsFloat = BEST
    preserving: SupportsFloat = BEST
    quality: SupportsFloat = BEST
    feedback: Sequence[str] | None = None

    def __post_init__(self):
        for name in PERSPECTIVES:
            object.__setattr__(self, name, as_number(f"reward {name}", getattr(self, name), WORST, BEST))
        if self.feedback is not None:
            object.__setattr__(self, "feedback", _three_texts(self.feedback))

    @property
    def scores(self) -> Float[np.ndarray, "3"]:
        """The scores as float32, in the order of `PERSPECTIVES`."""
        return np.asarray([self.following, self.preserving, self.quality], np.float32)

    @property
    def texts(self) -> tuple[str, ...]:
        """The feedback texts in the order of `PERSPECTIVES`."""
        return self.feedback if self.feedback is not None else (NOTHING_FAILED,) * len(PERSPECTIVES)


def join_feedback(texts: Sequence[str], perspectives: Sequence[str] = PERSPECTIVES) -> str:
    """One text for the text encoder: the feedback of the chosen perspectives joined with "; ".

    Args:
      texts: three texts, in the order of `PERSPECTIVES`.
      perspectives: the ones to keep; their order is that of `PERSPECTIVES`.
    Raises:
      ValueError: on an unknown perspective, or another number of texts than three.
    """
    if unknown := sorted(set(perspectives) - set(PERSPECTIVES)):
        raise ValueError(f"unknown perspectives {', '.join(unknown)}; expected some of {', '.join(PERSPECTIVES)}")
    named = zip(PERSPECTIVES, texts, strict=True)
    return "; ".join(text for perspective, text in named if perspective in perspectives)


def _three_texts(feedback: Sequence[str]) -> tuple[str, ...]:
    listed = isinstance(feedback, Sequence) and not isinstance(feedback, str)
    if not listed or len(feedback) != len(PERSPECTIVES) or not all(map(is_text, feedback)):
        raise ValueError(f"feedback must be three texts ({', '.join(PERSPECTIVES)}), not {shown(feedback)}")
    return tuple(feedback)
