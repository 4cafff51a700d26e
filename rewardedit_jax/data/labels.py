"""Labels of edits: the rewards that a judge gave, as launch/label.py writes them, and edits joined with them by key.

A line of the file is {"key": ..., "scores": [f, p, q], "feedback": [text, text, text], "failures": [...]}, in the order
following, preserving, quality. A perspective without an answer is null, and `failures` says why. Other fields are
ignored.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from absl import logging
from jaxtyping import Float

from rewardedit_jax.data.encoded import EncodedEdit, StoredEdits
from rewardedit_jax.data.json_files import Entry, read_list
from rewardedit_jax.data.records import BadRecords, Score, raise_or_log
from rewardedit_jax.listing import count_noun
from rewardedit_jax.reward import PERSPECTIVES


class Unanswered(msgspec.Struct, frozen=True):
    """A perspective for which the judge gave no reward."""

    perspective: Literal[*PERSPECTIVES]
    reason: str


class Label(msgspec.Struct, frozen=True):
    """The reward of an edit, or what there is of it."""

    key: str
    scores: tuple[Score | None, Score | None, Score | None]
    feedback: tuple[str | None, str | None, str | None]
    failures: tuple[Unanswered, ...] = ()

    @property
    def is_complete(self) -> bool:
        return None not in (*self.scores, *self.feedback)


def read_labels(file: str | Path, *, skip_bad: bool = False) -> dict[str, Label]:
    """Key → label.

    Raises:
      FileNotFoundError: there is no such file.
      BadRecords: lines that are not labels, or several labels of one key; with `skip_bad`, the last one counts.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"no file {file} of labels; launch/label.py writes it.")
    entries, faults = read_list(file, Label)
    raise_or_log([*faults, *_doubled(entries)], str(file), skip_bad)
    return {entry.value.key: entry.value for entry in entries}


def _doubled(entries: Sequence[Entry]) -> list[str]:
    counts = Counter(entry.value.key for entry in entries)
    return [f"{count} labels of {key!r}: expected one" for key, count in counts.items() if count > 1]


class LabelledEdits(StoredEdits):
    """Edits with the rewards of a label file, joined by key. Edits without a complete reward are left out."""

    def __init__(self, edits: StoredEdits, labels: str | Path, *, skip_bad: bool = False):
        """Reads the labels (`read_labels`). The log counts the edits that are left out.

        Raises:
          BadRecords: no edit has a complete reward.
        """
        self._edits, self._labels = edits, _complete(read_labels(labels, skip_bad=skip_bad))
        keys = edits.keys()
        self._numbers = [number for number, key in enumerate(keys) if key in self._labels]
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

    def scores(self) -> Float[np.ndarray, "n 3"]:
        """The scores of all edits, 0..5."""
        return np.asarray([self._labels[key].scores for key in self.keys()], np.float32)


def _complete(labels: Mapping[str, Label]) -> dict[str, Label]:
    return {key: label for key, label in labels.items() if label.is_complete}
