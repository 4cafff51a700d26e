"""Triplets from a plain list file: a user's own folder, or published lists such as AURORA's `test.json`.

One object per triplet, in a JSON list or one per line (`.jsonl`):

    {"input": "images/1.png", "output": "images/1_edited.png", "instruction": "make it snow",
     "scores": [4, 5, 3.5], "feedback": ["None", "None", "the sky is grey"]}

`scores` (0..5) and `feedback` are in the order following, preserving, quality and may be missing; other keys
are passed over. Image paths are relative to the file.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from rewardedit_jax.data.bad_records import BadRecords, ReadingSource, settle
from rewardedit_jax.data.images import read_image
from rewardedit_jax.data.records import EditRecord


class TripletFile(ReadingSource):
    """The triplets of a `.json` or `.jsonl` file, in its order. Keys are "number in the file:output"."""

    def __init__(self, path: str | Path, *, skip_bad: bool = False):
        """Reads the file; images are read at access.

        Raises:
          FileNotFoundError: if the file is missing.
          BadRecords: listing every malformed triplet, unless `skip_bad`.
        """
        super().__init__(skip_bad)
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no file {path}; expected:\n{__doc__.partition('    {')[2]}")
        entries = _entries(self.path)
        faults = [_fault(entry) for entry in entries]
        told = [f"triplet {i} ({str(entries[i])[:60]}): {fault}" for i, fault in enumerate(faults) if fault]
        settle(told, str(path), skip_bad)
        self._triplets = [(i, entries[i]) for i, fault in enumerate(faults) if not fault]

    def __len__(self) -> int:
        return len(self._triplets)

    def read(self, index: int) -> EditRecord:
        number, triplet = self._triplets[index]
        folder = self.path.parent
        source, edited = (np.asarray(read_image(folder / triplet[side])) for side in ("input", "output"))
        scores, feedback = triplet.get("scores"), triplet.get("feedback")
        return EditRecord(
            key=f"{number}:{triplet['output']}",
            instruction=triplet["instruction"],
            source=source,
            edited=edited,
            scores=None if scores is None else np.asarray(scores, np.float32),
            feedback=None if feedback is None else tuple(feedback),
        )


def _entries(path: Path) -> list[Any]:
    try:
        text = path.read_text("utf-8")
        if path.suffix == ".jsonl":
            # Not splitlines: JSON texts may contain other line separators as they are.
            return [_parse(line) for line in text.split("\n") if line.strip()]
        entries = json.loads(text)
    except ValueError as error:
        raise BadRecords(f"{path} is not JSON in UTF-8: {error}") from error
    if not isinstance(entries, list):
        raise BadRecords(f"{path}: expected a list of triplets, got {type(entries).__name__}.")
    return entries


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line  # which is no object: listed with the other faults


def _fault(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return "not a JSON object"
    if lacking := [key for key in ("input", "output", "instruction") if not isinstance(entry.get(key), str)]:
        return f"no text under {', '.join(lacking)}"
    if not _is_scores(entry.get("scores")):
        return "scores are not three numbers in 0..5"
    feedback = entry.get("feedback")
    if feedback is not None and not (_is_three(feedback) and all(isinstance(text, str) for text in feedback)):
        return "feedback is not three texts"
    return None


def _is_scores(scores: Any) -> bool:
    if scores is None:
        return True
    numbers = _is_three(scores) and all(isinstance(s, int | float) and not isinstance(s, bool) for s in scores)
    return numbers and all(0 <= s <= 5 for s in scores)


def _is_three(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3
