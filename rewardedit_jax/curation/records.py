"""The edits of a curation as arrays: what a file of facts and a file of labels say about each, by its number."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Float, UInt8

from rewardedit_jax.curation.facts import fact_file
from rewardedit_jax.curation.scores import ScoreJob
from rewardedit_jax.curation.selection import Edits
from rewardedit_jax.data.labels import Label, read_labels
from rewardedit_jax.listing import count_noun, list_names


@dataclass(frozen=True)
class Records:
    """The facts of all edits, in the order of the data."""

    edits: Edits
    content: UInt8[np.ndarray, "n 16"]  # `Facts.content`
    judged: Float[np.ndarray, "n 3"]  # scores that the data has; NaN: none
    groups: Sequence[Hashable]  # value of the quota's field; None where an edit has none
    failures: Mapping[int, str]  # number of an edit → why it cannot be read

    def jobs(self, numbers: Sequence[int] | None = None) -> list[ScoreJob]:
        """The edits that can be read, to be scored; of these `numbers`, or all."""
        chosen = range(len(self.edits)) if numbers is None else numbers
        readable = (i for i in chosen if not self.edits.unreadable[i])
        return [ScoreJob(self.edits.keys[i], self.content[i].tobytes().hex(), i) for i in readable]


def read_records(file: Path, keys: Sequence[str], quota: str | None = None) -> Records:
    """The facts of the edits with these keys. Those that the file lacks count as unreadable.

    Args:
      quota: a further field of edits, whose values become `groups`.
    Raises:
      ValueError: the file has other lines than facts, or no edit has the field.
    """
    n, numbers, failures, fields = len(keys), {key: number for number, key in enumerate(keys)}, {}, set()
    content, request, digests, hashes = (np.zeros((n, size), np.uint8) for size in (16, 8, 32, 64))
    difference, judged, unreadable = np.zeros(n), np.full((n, 3), np.nan), np.ones(n, bool)
    groups: list[Hashable] = [None] * n
    for line in fact_file(file).results():
        if (number := numbers.get(line["key"])) is None:
            continue
        if "error" in line:
            failures[number] = line["error"]
            continue
        unreadable[number], difference[number] = False, line["difference"]
        content[number], request[number] = _bytes(line["content"]), _bytes(line["request"])
        digests[number], hashes[number] = _bytes(*line["digests"]), _bytes(*line["hashes"])
        judged[number] = line["scores"] or np.nan
        fields.update(line["extra"])
        groups[number] = line["extra"].get(quota)
    if quota is not None and quota not in fields:
        known = f"their fields are {list_names(sorted(fields))}" if fields else "they have no further fields"
        raise ValueError(f"--quota {quota}: no edit has this field; {known}.")
    words = request.view(np.uint64)[:, 0], digests.view(np.uint64), hashes.view(np.uint64).reshape(n, 2, 4)
    return Records(Edits(keys, unreadable, *words, difference), content, judged, groups, failures)


def _bytes(*texts: str) -> UInt8[np.ndarray, " m"]:
    return np.frombuffer(bytes.fromhex("".join(texts)), np.uint8)


def join_labels(file: Path, keys: Sequence[str]) -> tuple[Float[np.ndarray, "n 3"], dict[int, str]]:
    """The judged scores of the edits, and of those without a complete label the reason.

    Raises:
      ValueError: no label belongs to one of the edits, or as `read_labels`.
    """
    labels = read_labels(file)
    found = [labels.get(key) for key in keys]
    joined = sum(label is not None for label in found)
    if not joined:
        edits = count_noun(len(keys), "edit")
        raise ValueError(f"{file} has labels of other data: none of these {edits} has its key there.")
    if others := len(labels) - joined:
        logging.warning("%s: %s of other data.", file, count_noun(others, "label"))
    scores = [label.scores if label and label.is_complete else (np.nan,) * 3 for label in found]
    missing = {i: _missing(label, file) for i, label in enumerate(found) if not (label and label.is_complete)}
    return np.array(scores, float), missing


def _missing(label: Label | None, file: Path) -> str:
    if label is None:
        return f"{file} has no label of this edit"
    return (
        "; ".join(f"{failure.perspective}: {failure.reason}" for failure in label.failures) or "its label is incomplete"
    )
