"""What a scorer says of one edit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32


class Gaussian(NamedTuple):
    """A score and how sure the scorer is of it. Without unit or bounds: only differences mean anything."""

    mean: float
    std: float

    @classmethod
    def of(cls, output: Float[np.ndarray, "2"]) -> "Gaussian":
        """From the published form, [mean, log σ]."""
        return cls(float(output[0]), float(np.exp(output[1])))


@dataclass(frozen=True)
class Unscorable:
    """Stands in the place of the score of an edit that has none."""

    reason: str  # a sentence that names the image or the instruction at fault


@dataclass(frozen=True, eq=False)
class EditScore:
    """Scores of one edit; higher is better.

    `raw` and `raw_overall` are the network's numbers in the published form [mean, log σ]: of each prompt, and of the
    aggregate, which is what published code returns.
    """

    raw: Float32[np.ndarray, "k 2"]
    raw_overall: Float32[np.ndarray, "2"]
    improvement: float | None = None  # overall mean above that of the unchanged source; None: not asked for
    calibrated: float | None = None  # 0..1, share of the reference edits that it beats; None: scorer not calibrated
    calibration: str | None = None  # which edits these are
    composited: tuple[str, ...] = ()  # which of source, edited had transparent parts, which were laid on white

    @property
    def overall(self) -> Gaussian:
        return Gaussian.of(self.raw_overall)

    @property
    def following(self) -> Gaussian | None:
        """None of a scorer that is asked a single question."""
        return Gaussian.of(self.raw[0]) if len(self.raw) == 2 else None

    @property
    def quality(self) -> Gaussian | None:
        """None of a scorer that is asked a single question."""
        return Gaussian.of(self.raw[1]) if len(self.raw) == 2 else None

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, in full precision."""
        gaussians = {name: getattr(self, name) for name in ("following", "quality", "overall")}
        return {
            **{name: None if value is None else value._asdict() for name, value in gaussians.items()},
            "improvement": self.improvement,
            "calibrated": self.calibrated,
            "calibration": self.calibration,
            "raw": self.raw.tolist(),
            "raw_overall": self.raw_overall.tolist(),
            "composited": list(self.composited),
        }


def matrix(scores: Sequence[EditScore]) -> Float[np.ndarray, "n 3"]:
    """Means of following, quality and overall, float64; a scorer of a single question has its overall in all three."""
    means = [[(g or s.overall).mean for g in (s.following, s.quality, s.overall)] for s in scores]
    return np.array(means, np.float64).reshape(-1, 3)
