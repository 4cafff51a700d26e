"""Scores of edits from a file instead of from a network: what `launch/score.py` wrote, or any judge in that form.

A line for each edit: {"source": path, "edited": path, "instruction": text, "overall": {"mean": number}}, and optionally
"following" and "quality" likewise. Paths are compared as files, so they may be written in any way. More keys, and
lines of edits that are not asked for, do no harm.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from rewardedit_jax.evaluation.reward_benchmarks.json_records import is_number, listed
from rewardedit_jax.scoring.prompts import PERSPECTIVES

_FORM = '{"source": "a.png", "edited": "b.png", "instruction": "make it snow", "overall": {"mean": 0.5}}'

Key = tuple[Path, Path, str]  # source, edited, instruction


@dataclass(frozen=True)
class StoredScores:
    """Scores of following, quality and overall by edit; a perspective that was not told has the overall score."""

    file: Path
    scores: Mapping[Key, tuple[float, float, float]]

    def of(self, edits: Sequence[Key]) -> Float[np.ndarray, "n 3"]:
        """Raises ValueError, counting and naming them, if edits have no score: none leaves the denominator."""
        keys = [_key(*edit) for edit in edits]
        missing = [key[1] for key in keys if key not in self.scores]
        if missing:
            raise ValueError(f"{self.file}: {len(missing)} of {len(keys)} edits have no score: {listed(missing)}.")
        return np.array([self.scores[key] for key in keys], np.float64).reshape(-1, 3)


def read_scores(file: Path) -> StoredScores:
    """The scores of a .jsonl; relative paths in it are those of the folder that the program runs in, as written there.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: naming the line that is no score, or two lines that contradict each other.
    """
    scores: dict[Key, tuple[float, float, float]] = {}
    for n, line in enumerate(file.read_text("utf-8").split("\n"), 1):
        if not line.strip():
            continue
        key, told = _read_line(line, f"{file}, line {n}")
        if scores.setdefault(key, told) != told:
            raise ValueError(f"{file}, line {n}: {key[1]} has another score further up.")
    return StoredScores(file, scores)


def _read_line(line: str, name: str) -> tuple[Key, tuple[float, float, float]]:
    try:
        entry = json.loads(line)
        key = _key(Path(entry["source"]), Path(entry["edited"]), entry["instruction"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{name} is no score such as {_FORM}: {error!r}.") from error
    if "error" in entry:
        raise ValueError(f"{name}: {key[1]} was not scored: {entry['error']}")
    overall = _mean(entry.get("overall"))
    if overall is None:
        raise ValueError(f"{name}: overall is {entry.get('overall')!r}, not of the form {{'mean': number}}.")
    following, quality = (overall if (mean := _mean(entry.get(p))) is None else mean for p in PERSPECTIVES)
    return key, (following, quality, overall)


def _mean(told: Any) -> float | None:
    mean = told.get("mean") if isinstance(told, dict) else None
    return float(mean) if is_number(mean) else None


def _key(source: Path, edited: Path, instruction: str) -> Key:
    return source.resolve(), edited.resolve(), instruction
