"""The reward that an edit is asked for, or that a training pair was given."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from jaxtyping import Float

from rewardedit_jax.models.reward_condition import PERSPECTIVES

BEST, WORST = 5.0, 0.0
NOTHING_FAILED = "None"  # the feedback text that published weights were trained with


@dataclass(frozen=True)
class Reward:
    """Three scores in 0..5 and, optionally, three texts on what failed (in the order of the scores).

    `feedback=None` stands for "None; None; None": nothing failed. `Reward()` asks for the best edit.
    """

    following: Real = BEST
    preserving: Real = BEST
    quality: Real = BEST
    feedback: Sequence[str] | None = None

    def __post_init__(self):
        for name in PERSPECTIVES:
            score = getattr(self, name)
            if not isinstance(score, Real) or not WORST <= score <= BEST:  # also catches NaN
                raise ValueError(f"reward {name}={score!r} is no number in 0..5 (0: the worst edit, 5: the best).")
            object.__setattr__(self, name, float(score))
        if self.feedback is not None:
            object.__setattr__(self, "feedback", _three_texts(self.feedback))

    @property
    def scores(self) -> Float[np.ndarray, "3"]:
        """The scores in the order following, preserving, quality."""
        return np.asarray([self.following, self.preserving, self.quality], np.float32)

    @property
    def texts(self) -> tuple[str, ...]:
        """The feedback texts in the order of the scores."""
        return self.feedback if self.feedback is not None else (NOTHING_FAILED,) * len(PERSPECTIVES)


def _three_texts(feedback: Sequence[str]) -> tuple[str, ...]:
    listed = isinstance(feedback, Sequence) and not isinstance(feedback, str)
    if not listed or len(feedback) != len(PERSPECTIVES) or not all(isinstance(text, str) for text in feedback):
        raise ValueError(f"feedback must be three texts ({', '.join(PERSPECTIVES)}), not {feedback!r}.")
    return tuple(feedback)
