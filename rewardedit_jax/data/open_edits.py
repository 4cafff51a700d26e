"""The edits that a path names: a prepared data set or a list file, with their labels if there are any."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
from absl import logging

from rewardedit_jax.data.encoded import EncodedEdit, StoredEdits
from rewardedit_jax.data.json_files import Entry, read_list
from rewardedit_jax.data.prepared import PreparedEdits
from rewardedit_jax.data.records import BadRecords, Score, raise_or_log
from rewardedit_jax.data.triplets import TripletFile
from rewardedit_jax.listing import count_noun


class _Label(msgspec.Struct):
    """A line of labels.jsonl, as launch/label.py writes it. A perspective without an answer is null."""

    key: str
    scores: tuple[Score | None, Score | None, Score | None]
    feedback: tuple[str | None, str | None, str | None]

    @property
    def is_complete(self) -> bool:
        return None not in (*self.scores, *self.feedback)


def open_edits(
    path: str | Path, *, labels: str | Path = "", skip_bad: bool = False, allow_outside: bool = False
) -> StoredEdits:
    """The edits of a prepared data set (a folder), or of a .json or .jsonl list (`TripletFile`).

    Args:
      labels: the file of their rewards (`LabelledEdits`); "": the rewards of the data itself, if any.
      skip_bad, allow_outside: as for `TripletFile`.
    """
    is_list = Path(path).suffix.lower() in (".json", ".jsonl")
    edits = TripletFile(path, skip_bad=skip_bad, allow_outside=allow_outside) if is_list else PreparedEdits(path)
    return LabelledEdits(edits, labels, skip_bad=skip_bad) if labels else edits


class LabelledEdits(StoredEdits):
    """Edits with the rewards of a label file, joined by key. Edits without a complete reward are left out."""

    def __init__(self, edits: StoredEdits, labels: str | Path, *, skip_bad: bool = False):
        """Reads the labels. The log counts the edits that are left out.

        Raises:
          FileNotFoundError: there is no such file.
          BadRecords: lines that are not labels, unless `skip_bad`; two labels of one key; or no edit has a reward.
        """
        self._edits, self._labels = edits, _read_labels(Path(labels), skip_bad)
        keys = edits.keys()
        self._numbers = [i for i, key in enumerate(keys) if key in self._labels and self._labels[key].is_complete]
        if not self._numbers:
            raise BadRecords(f"none of the {count_noun(len(keys), 'edit')} has a complete reward in {labels}.")
        if left_out := len(keys) - len(self._numbers):
            message = "%s: %d of %d edits have no complete reward there and are left out."
            logging.warning(message, labels, left_out, len(keys))

    def __len__(self) -> int:
        return len(self._numbers)

    def encoded(self, index: int) -> EncodedEdit:
        edit = self._edits.encoded(self._numbers[index])
        label = self._labels[edit.key]
        return replace(edit, scores=label.scores, feedback=label.feedback)

    def keys(self) -> list[str]:
        keys = self._edits.keys()
        return [keys[number] for number in self._numbers]

    def digests(self, index: int) -> tuple[str, str]:
        return self._edits.digests(self._numbers[index])

    def scores(self) -> np.ndarray:
        """The scores of all edits, float32[n, 3]."""
        return np.asarray([self._labels[key].scores for key in self.keys()], np.float32)


def _read_labels(file: Path, skip_bad: bool) -> dict[str, _Label]:
    if not file.is_file():
        raise FileNotFoundError(f"no file {file} of labels; launch/label.py writes it.")
    entries, faults = read_list(file, _Label)
    raise_or_log([*faults, *_doubled(entries)], str(file), skip_bad)
    return {entry.value.key: entry.value for entry in entries}


def _doubled(entries: Sequence[Entry]) -> list[str]:
    counts = Counter(entry.value.key for entry in entries)
    return [f"{count} labels of {key!r}: expected one" for key, count in counts.items() if count > 1]
