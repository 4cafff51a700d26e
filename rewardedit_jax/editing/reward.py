"""The reward that an edit is asked for, or that a training pair was given."""

from collections.abc import Sequence
from dataclasses import dataclass

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

    following: float = BEST
    preserving: float = BEST
    quality: float = BEST
    feedback: Sequence[str] | None = None

    def __post_init__(self):
        for name in PERSPECTIVES:
            score = getattr(self, name)
            if not WORST <= score <= BEST:  # also catches NaN
                raise ValueError(f"reward {name}={score} is outside 0..5; 5 asks for the best edit, 0 for the worst.")
        if self.feedback is not None and (isinstance(self.feedback, str) or len(self.feedback) != len(PERSPECTIVES)):
            raise ValueError(f"feedback must be three texts ({', '.join(PERSPECTIVES)}), got {self.feedback!r}.")

    @property
    def scores(self) -> Float[np.ndarray, "3"]:
        """The scores in the order following, preserving, quality."""
        return np.asarray([self.following, self.preserving, self.quality], np.float32)

    @property
    def texts(self) -> tuple[str, ...]:
        """The feedback texts in the order of the scores."""
        return tuple(self.feedback) if self.feedback is not None else (NOTHING_FAILED,) * len(PERSPECTIVES)
