"""Judged pairs of the shapes world: every two of a scene's four candidates, preferred by the sum of their ratings."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from rewardedit_jax.data.records import Preference, PreferenceLabel
from rewardedit_jax.shapes.builder import PICTURE, Generated, prepare, to_png
from rewardedit_jax.shapes.candidates import CANDIDATES, ShapesCandidates, shapes_candidates
from rewardedit_jax.shapes.edits import EDIT_TYPES, Split
from rewardedit_jax.shapes.render import SIZE

_PAIRS = tuple(combinations(range(CANDIDATES), 2))


class ShapesPreferencesBuilder(Generated):
    """Four imperfect edits of each of many procedural scenes, with the oracle's scores and ratings after them."""

    name = "shapes_preferences"
    unit = " groups"
    VERSION = tfds.core.Version("1.0.0")

    @property
    def features(self) -> dict[str, Any]:
        return {
            "key": tfds.features.Text(),
            "instruction": tfds.features.Text(),
            "source": PICTURE,
            "ideal": PICTURE,
            # One above the other: a single picture is read faster than four.
            "candidates": tfds.features.Image(shape=(CANDIDATES * SIZE, SIZE, 3), encoding_format="png"),
            "scores": tfds.features.Tensor(shape=(CANDIDATES, 3), dtype=np.float32),
            "ratings": tfds.features.Tensor(shape=(CANDIDATES, 2), dtype=np.float32),
            "edit_type": tfds.features.ClassLabel(names=EDIT_TYPES),
        }

    @staticmethod
    def make(index: int, split: Split, seed: int) -> dict[str, Any]:
        group = shapes_candidates(index, split, seed)
        column = group.candidates.reshape(-1, SIZE, 3)
        pictures = {"source": group.source, "ideal": group.ideal, "candidates": column}
        return {**vars(group), **{name: to_png(picture) for name, picture in pictures.items()}}


def prepare_shapes_preferences(data_dir: str | Path, train: int, test: int, seed: int = 0) -> Path:
    """Writes so many groups of four unless they are there, and returns their folder."""
    return prepare(ShapesPreferencesBuilder, data_dir, train, test, seed)


class ShapesPreferences:
    """All pairs of one split, six a group, in order. A `data.records.PreferenceSource`."""

    def __init__(self, path: str | Path, split: Split):
        builder = tfds.builder_from_directory(str(path))
        self._groups = builder.as_data_source(split)
        undecoded = dict.fromkeys(("source", "ideal", "candidates"), tfds.decode.SkipDecoding())
        groups = map(_with_texts, builder.as_data_source(split, decoders=undecoded))
        self.labels = [label for group in groups for label in _labels(group)]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Preference:
        number, pair = divmod(index, len(_PAIRS))
        group = self.group(number)
        images = dict(zip(("edited_a", "edited_b"), group.candidates[list(_PAIRS[pair])], strict=True))
        return Preference(**vars(self.labels[index]), source=group.source, **images)

    def group(self, number: int) -> ShapesCandidates:
        """The candidates that pairs 6 · number and following are made of."""
        row = _with_texts(self._groups[number])
        row["candidates"] = row["candidates"].reshape(CANDIDATES, SIZE, SIZE, 3)
        return ShapesCandidates(**{**row, "edit_type": EDIT_TYPES[row["edit_type"]]})


def _with_texts(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, **{name: row[name].decode() for name in ("key", "instruction")}}


def _labels(group: dict[str, Any]) -> Iterator[PreferenceLabel]:
    """Of every two candidates."""
    key, ratings = group["key"], group["ratings"]
    for a, b in _PAIRS:
        difference = ratings[a].sum() - ratings[b].sum()
        yield PreferenceLabel(
            key=f"{key}/{a}-{b}",
            instruction=group["instruction"],
            names=(f"{key}/source", f"{key}/{a}", f"{key}/{b}"),
            preferred="tie" if difference == 0 else "a" if difference > 0 else "b",
            ratings_a=tuple(ratings[a].tolist()),
            ratings_b=tuple(ratings[b].tolist()),
        )
