"""What a score means: the share of stated reference edits that it beats.

Raw scores have no unit. Against a reference set, scored by the same scorer, an edit has a place between 0 and 1: the
probability, under the predicted Gaussians, that it is better than an edit drawn from the set. 0.5 is as good as such
an edit. The set is stated with the scorer, as the number means nothing without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from rewardedit_jax.scoring.edit_score import EditScore
from rewardedit_jax.scoring.objectives import preference_probability
from rewardedit_jax.weights.files import read_json, write_json

_FILE = "calibration.json"
_MOST = 2000  # reference edits that are kept: the error of the share is then about 0.01
_DIGITS = 5


@dataclass(frozen=True, eq=False)
class Calibration:
    """Reference edits as a scorer sees them."""

    description: str  # what they are
    outputs: Float32[np.ndarray, "n 2"]  # [mean, log σ] of each

    @classmethod
    def of(cls, scores: Sequence[EditScore], description: str) -> "Calibration":
        """Of more edits than are kept, evenly spaced ones of their order by mean are.

        Raises:
          ValueError: for no edits, or no word on what they are.
        """
        if not scores:
            raise ValueError("a calibration needs reference edits, and there are none.")
        if not description.strip():
            raise ValueError("a calibration says of which edits it is: describe them, '1,000 edits of our release'.")
        outputs = np.stack([score.raw_overall for score in scores])
        outputs = outputs[outputs[:, 0].argsort()]
        kept = np.linspace(0, len(outputs) - 1, min(len(outputs), _MOST)).round().astype(int)
        return cls(description, outputs[kept].round(_DIGITS).astype(np.float32))

    def shares(self, outputs: Float32[np.ndarray, "m 2"]) -> list[float]:
        """Of the reference edits, that edits with these outputs beat: 0..1 each."""
        pairs = jnp.asarray(outputs)[:, None], jnp.asarray(self.outputs)
        return np.asarray(preference_probability(*pairs).mean(axis=1)).tolist()

    def save(self, directory: Path) -> None:
        outputs = [[round(float(value), _DIGITS) for value in output] for output in self.outputs]
        write_json({"description": self.description, "outputs": outputs}, directory / _FILE)

    @classmethod
    def read(cls, directory: Path) -> "Calibration | None":
        """That of a model directory; None if it has none."""
        if not (directory / _FILE).is_file():
            return None
        told = read_json(directory / _FILE)
        return cls(told["description"], np.asarray(told["outputs"], np.float32).reshape(-1, 2))
