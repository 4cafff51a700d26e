"""Pairs of edits with preferences in a prepared data set: their fields, how they are stored, and their reader."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from rewardedit_jax.data.encoded import EncodedPreference, StoredPreferences
from rewardedit_jax.data.prepared import IMAGE, TEXT, Prepared, serialize
from rewardedit_jax.data.records import PreferenceLabel, Ratings, warn_contradictions
from rewardedit_jax.data.shards import StoredRow

_IMAGES = ("source", "edited_a", "edited_b")
_RATINGS = tfds.features.Tensor(shape=(2,), dtype=np.float32)
# The fields of a stored pair. `ratings_...`, following and quality, are NaN where the pair is not rated.
PAIR_FEATURES = tfds.features.FeaturesDict(
    {
        "key": TEXT,
        "instruction": TEXT,
        **dict.fromkeys(_IMAGES, IMAGE),
        "names": tfds.features.Sequence(TEXT, length=3),  # of the images: equal names are equal images
        "preferred": TEXT,  # "a", "b" or "tie"
        "ratings_a": _RATINGS,
        "ratings_b": _RATINGS,
    }
)


class PreparedPairs(Prepared, StoredPreferences):
    """The pairs of one split: a `PreferenceSource`. Contradictory pairs are logged and kept."""

    fields, needed = PAIR_FEATURES, tuple(PAIR_FEATURES)
    columns = tuple(name for name in PAIR_FEATURES if name not in _IMAGES)

    def __init__(self, folder: str | Path, split: str = "train"):
        super().__init__(folder, split)
        # From the index, whose ratings are not rounded to float32.
        self.labels = [_label(row) for row in self.index.to_pylist()]
        warn_contradictions(self.labels, str(folder))

    def encoded(self, index: int) -> EncodedPreference:
        row = self._read(index)
        names = tuple(f"{name} of {row['key']} ({self.folder})" for name in _IMAGES)
        return EncodedPreference(self.labels[index], *(row[name] for name in _IMAGES), names)

    @staticmethod
    def index_row(record: EncodedPreference) -> dict[str, Any]:
        label = record.label
        ratings = {name: _numbers(getattr(label, name)) for name in ("ratings_a", "ratings_b")}
        texts = {name: getattr(label, name) for name in ("key", "instruction", "preferred")}
        return {**texts, "names": list(label.names), **ratings}


def pair_row(pair: EncodedPreference) -> StoredRow:
    """The pair as it is stored. Raises `ImageError` if one of its images cannot be decoded."""
    pair.decoded()
    index = PreparedPairs.index_row(pair)
    example = {**index, **{name: getattr(pair, name) for name in _IMAGES}}
    example |= {name: np.asarray(index[name], np.float32) for name in ("ratings_a", "ratings_b")}
    return StoredRow(serialize(PAIR_FEATURES, example), index)


def _numbers(ratings: Ratings | None) -> list[float]:
    return [np.nan, np.nan] if ratings is None else [float(rating) for rating in ratings]


def _label(row: dict[str, Any]) -> PreferenceLabel:
    ratings = (_ratings(row[name]) for name in ("ratings_a", "ratings_b"))
    return PreferenceLabel(row["key"], row["instruction"], tuple(row["names"]), row["preferred"], *ratings)


def _ratings(numbers: Sequence[float]) -> Ratings | None:
    return None if np.isnan(numbers).any() else tuple(numbers)
