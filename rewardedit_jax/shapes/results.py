"""What the scoring of one model leaves behind: every score in result.json, every picture in pictures.npz."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from rewardedit_jax.reward import PERSPECTIVES
from rewardedit_jax.weights.files import write_json

RESULT = "result.json"
_PICTURES = "pictures.npz"


@dataclass(frozen=True, eq=False)
class Result:
    """Outputs of one editor, by what it was asked for, and the judge's scores of them."""

    scores: Mapping[str, Float[np.ndarray, "n 3"]]
    pictures: Mapping[str, UInt8[np.ndarray, "n h w 3"]]

    def save(self, directory: Path, about: Mapping[str, Any]) -> None:
        """Writes both files; `about` says how the pictures were made."""
        directory.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(directory / _PICTURES, **self.pictures)
        scores = {asked: [[round(float(s), 4) for s in row] for row in rows] for asked, rows in self.scores.items()}
        scenes = len(next(iter(self.scores.values())))
        told = {**about, "scenes": scenes, "perspectives": list(PERSPECTIVES), "scores": scores}
        # Last and in one piece, because its presence is what makes a job done.
        unfinished = directory / "result.tmp"
        write_json(told, unfinished)
        unfinished.replace(directory / RESULT)

    @classmethod
    def load(cls, directory: Path) -> "Result":
        scores = json.loads((directory / RESULT).read_text())["scores"]
        with np.load(directory / _PICTURES) as pictures:
            return cls({k: np.asarray(rows, np.float32) for k, rows in scores.items()}, dict(pictures))


def scored_scenes(directory: Path) -> int | None:
    """How many scenes the result in this directory is of; None where there is none."""
    file = directory / RESULT
    return json.loads(file.read_text())["scenes"] if file.is_file() else None
