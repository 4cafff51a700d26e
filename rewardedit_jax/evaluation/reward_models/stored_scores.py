"""Scores of edits from a file instead of from a network: what `launch/score.py` wrote, or any judge in that form.

A line for each edit: {"source": path, "edited": path, "instruction": text, "overall": {"mean": number}}, and optionally
"following" and "quality" likewise; or "error" instead, where an edit could not be scored. Paths are compared as files,
so they may be written in any way. More keys, and lines of edits that are not asked for, do no harm.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from rewardedit_jax.data.json_lines import numbered_lines
from rewardedit_jax.evaluation.reward_models.json_records import is_number, listed
from rewardedit_jax.scoring.prompts import PERSPECTIVES

_FORM = '{"source": "a.png", "edited": "b.png", "instruction": "make it snow", "overall": {"mean": 0.5}}'

Key = tuple[Path, Path, str]  # source, edited, instruction
Told = tuple[float, float, float]  # following, quality, overall


@dataclass(frozen=True)
class StoredScores:
    """Scores of following, quality and overall by edit; a perspective that was not told has the overall score."""

    file: Path
    scores: Mapping[Key, Told]
    errors: Mapping[Key, str] = field(default_factory=dict)  # why there is no score; one that is there counts

    def of(self, edits: Sequence[Key]) -> Float[np.ndarray, "n 3"]:
        """Raises ValueError, counting and naming them, if edits have no score: none leaves the denominator."""
        keys = [_key(*edit) for edit in edits]
        if missing := [self._lacking(key) for key in keys if key not in self.scores]:
            told = listed(missing, between="; ")
            raise ValueError(f"{self.file}: {len(missing)} of {len(keys)} edits have no score: {told}.")
        return np.array([self.scores[key] for key in keys], np.float64).reshape(-1, 3)

    def _lacking(self, key: Key) -> str:
        return f"{key[1]} was not scored ({self.errors[key]})" if key in self.errors else str(key[1])


def read_scores(file: Path) -> StoredScores:
    """The scores of a .jsonl; relative paths in it are those of the folder that the program runs in, as written there.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: naming the line that is no score, or two lines that contradict each other.
    """
    scores: dict[Key, Told] = {}
    errors: dict[Key, str] = {}
    for n, line in numbered_lines(file):
        key, entry = _read_line(line, f"{file}, line {n}")
        if "error" in entry:
            errors[key] = f"line {n}: {entry['error']}"
            continue
        told = _told(entry, f"{file}, line {n}")
        if scores.setdefault(key, told) != told:
            raise ValueError(f"{file}, line {n}: {key[1]} has another score further up.")
    return StoredScores(file, scores, errors)


def _read_line(line: str, name: str) -> tuple[Key, dict[str, Any]]:
    try:
        entry = json.loads(line)
        source, edited, instruction = (entry[name] for name in ("source", "edited", "instruction"))
        if not isinstance(instruction, str):
            raise TypeError("the instruction is no text")
        return _key(Path(source), Path(edited), instruction), entry
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{name} is no score such as {_FORM}: {error!r}.") from error


def _told(entry: Mapping[str, Any], name: str) -> Told:
    overall = _mean(entry, "overall", name)
    following, quality = (overall if entry.get(p) is None else _mean(entry, p, name) for p in PERSPECTIVES)
    return following, quality, overall


def _mean(entry: Mapping[str, Any], what: str, name: str) -> float:
    told = entry.get(what)
    if not isinstance(told, dict) or not is_number(told.get("mean")):
        raise ValueError(f"{name}: {what} is {told!r}, not of the form {{'mean': number}}.")
    return float(told["mean"])


def _key(source: Path, edited: Path, instruction: str) -> Key:
    return source.resolve(), edited.resolve(), instruction
