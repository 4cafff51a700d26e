"""`EditScore`, the score of one edit, and `Calibration`, which gives scores a meaning.

EditReward (arXiv:2509.26346) predicts a Gaussian for each perspective (section 3.2, eq. 2) and aggregates them (eq. 3).
Its scores have no unit. A calibration compares them with reference edits that the same scorer has scored: the
calibrated score of an edit is the probability, under the predicted Gaussians, that it is better than an edit drawn
from the reference. 0.5 means: as good as such an edit. The description of the reference is saved with the scorer,
because the number means nothing without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
import msgspec
import numpy as np
from jaxtyping import Float, Float32

from rewardedit_jax.arguments import LARGEST, shown
from rewardedit_jax.data.json_files import read_json
from rewardedit_jax.data.runs import Failed
from rewardedit_jax.scoring.objectives import preference_probability
from rewardedit_jax.weights.files import write_json

_FILE = "calibration.json"
_MAX_REFERENCE = 2000  # edits that are kept; the standard error of a share is then about 0.01
_DIGITS = 5  # of stored outputs, so that a calibration is the same before and after it is saved


class Gaussian(NamedTuple):
    """A score and its uncertainty. Scores have no unit and no bounds: only differences have a meaning."""

    mean: float
    std: float

    @classmethod
    def of(cls, output: Float[np.ndarray, "2"]) -> "Gaussian":
        """From the published form [mean, log σ]."""
        with np.errstate(over="ignore"):  # `EditScore.is_finite` reports it
            return cls(float(output[0]), float(np.exp(output[1])))


@dataclass(frozen=True)
class Unscorable(Failed):
    """An edit without a score, such as one whose image cannot be read."""


@dataclass(frozen=True, eq=False)
class EditScore:
    """Scores of one edit; higher is better.

    Scores have no order of their own, and `<` is a TypeError: sort them by `overall.mean`, or ask `Scorer.prefer`.

    `raw` and `raw_overall` are the network's outputs in the published form [mean, log σ], for each prompt and for their
    aggregate. Published code returns the aggregate.
    """

    raw: Float32[np.ndarray, "k 2"]
    raw_overall: Float32[np.ndarray, "2"]
    improvement: float | None = None  # overall mean minus that of the unchanged source; None: not computed
    calibrated: float | None = None  # 0..1, share of the reference edits that it beats; None: scorer not calibrated
    calibration: str | None = None  # description of the reference edits
    composited: tuple[str, ...] = ()  # which of "source", "edited" had transparent parts, now on white
    raw_unchanged: Float32[np.ndarray, "2"] | None = None  # `raw_overall` of the unchanged source; None: not computed

    @property
    def overall(self) -> Gaussian:
        return Gaussian.of(self.raw_overall)

    @property
    def unchanged(self) -> Gaussian | None:
        """The overall score of the unchanged source; None: not computed."""
        return None if self.raw_unchanged is None else Gaussian.of(self.raw_unchanged)

    @property
    def following(self) -> Gaussian | None:
        """None for a scorer with a single prompt."""
        return Gaussian.of(self.raw[0]) if len(self.raw) == 2 else None

    @property
    def quality(self) -> Gaussian | None:
        """None for a scorer with a single prompt."""
        return Gaussian.of(self.raw[1]) if len(self.raw) == 2 else None

    @property
    def is_finite(self) -> bool:
        """Whether all means, standard deviations and the improvement are finite."""
        gaussians = [g for g in (self.following, self.quality, self.overall, self.unchanged) if g is not None]
        return bool(np.isfinite([*chain(*gaussians), self.improvement or 0.0]).all())

    def __lt__(self, other: Any) -> bool:
        raise TypeError("EditScores have no order: sort by score.overall.mean, or call Scorer.prefer(a, b).")

    __gt__ = __le__ = __ge__ = __lt__

    def to_json(self) -> dict[str, Any]:
        """Plain numbers in full precision."""
        gaussians = {name: getattr(self, name) for name in ("following", "quality", "overall", "unchanged")}
        return {
            **{name: None if value is None else value._asdict() for name, value in gaussians.items()},
            "improvement": self.improvement,
            "calibrated": self.calibrated,
            "calibration": self.calibration,
            "raw": self.raw.tolist(),
            "raw_overall": self.raw_overall.tolist(),
            "composited": list(self.composited),
        }


def check_score(name: str, value: Any) -> None:
    """Raises ValueError unless the value is an `EditScore` of finite numbers."""
    if not isinstance(value, EditScore):
        raise ValueError(f"{name}={shown(value)}: expected an EditScore, as Scorer.score returns.")
    if not value.is_finite:
        raise ValueError(f"{name} has overall={value.overall}: expected finite numbers.")


def matrix(scores: Sequence[EditScore | Unscorable]) -> Float[np.ndarray, "n 3"]:
    """Means of following, quality and overall, float64; NaN for an `Unscorable`.

    A scorer with a single prompt has its overall mean in all columns.
    """
    return np.array([_means(score) for score in scores], np.float64).reshape(-1, 3)


def _means(score: EditScore | Unscorable) -> list[float]:
    if isinstance(score, Unscorable):
        return [np.nan] * 3
    return [(gaussian or score.overall).mean for gaussian in (score.following, score.quality, score.overall)]


# NaN lies in no range, so `read_json` refuses it.
_Finite = Annotated[float, msgspec.Meta(ge=-LARGEST, le=LARGEST)]


class _Stored(msgspec.Struct):
    """The file of a calibration."""

    description: str
    outputs: Annotated[list[tuple[_Finite, _Finite]], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Outputs of a scorer for reference edits."""

    description: str  # which edits they are
    outputs: Float32[np.ndarray, "n 2"]  # [mean, log σ] of each

    @classmethod
    def of(cls, scores: Sequence[EditScore], description: str) -> "Calibration":
        """From the scores of the reference edits. At most 2,000 are kept, evenly spaced by their means."""
        if not scores:
            raise ValueError("a calibration needs the scores of reference edits; got none.")
        for i, score in enumerate(scores):
            check_score(f"scores[{i}]", score)
        if not isinstance(description, str) or not description.strip():
            raise ValueError(f"description={shown(description)}: expected a text such as '1,000 edits of our release'.")
        outputs = np.stack([score.raw_overall for score in scores])
        # Evenly spaced by rank, so that the kept outputs have the distribution of all.
        outputs = outputs[outputs[:, 0].argsort()]
        kept = np.linspace(0, len(outputs) - 1, min(len(outputs), _MAX_REFERENCE)).round().astype(int)
        return cls(description, outputs[kept].round(_DIGITS).astype(np.float32))

    def shares(self, outputs: Float32[np.ndarray, "m 2"]) -> list[float]:
        """The share 0..1 of the reference edits that edits with these outputs beat."""
        pairs = jnp.asarray(outputs)[:, None], jnp.asarray(self.outputs)
        return np.asarray(preference_probability(*pairs).mean(axis=1)).tolist()

    def save(self, directory: Path) -> None:
        outputs = [[round(float(value), _DIGITS) for value in output] for output in self.outputs]
        write_json({"description": self.description, "outputs": outputs}, directory / _FILE)

    @classmethod
    def read(cls, directory: Path) -> "Calibration | None":
        """The calibration of a model directory; None if it has none."""
        if not (directory / _FILE).is_file():
            return None
        stored = read_json(directory / _FILE, _Stored)
        return cls(stored.description, np.asarray(stored.outputs, np.float32))
