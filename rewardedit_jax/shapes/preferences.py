"""Preference pairs of the shapes world: groups of four rated edits, their data set on disk, and pairs of a group."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, UInt8

from rewardedit_jax.data.records import Preference, PreferenceLabel
from rewardedit_jax.shapes.examples import PICTURE, GeneratedBuilder, prepare, read_row, to_png
from rewardedit_jax.shapes.faults import render_faulty, sample_faults
from rewardedit_jax.shapes.oracle import judge_batch
from rewardedit_jax.shapes.render import SIZE, render, to_uint8
from rewardedit_jax.shapes.scene import EDIT_TYPES, SPLITS, Split, choose, sample_case
from rewardedit_jax.shapes.wording import instructions

CANDIDATES = 4
_PAIRS = tuple(combinations(range(CANDIDATES), 2))
# Part of the random seed, so that a group and an editor's example of the same index show different scenes.
_STREAM = 1


@dataclass(frozen=True, eq=False)
class ShapesCandidates:
    """Four imperfect edits of one source by one instruction, with their ratings."""

    key: str
    instruction: str
    source: UInt8[np.ndarray, "32 32 3"]
    ideal: UInt8[np.ndarray, "32 32 3"]
    candidates: UInt8[np.ndarray, "4 32 32 3"]
    scores: Float[np.ndarray, "4 3"]  # the oracle's, 0..5: following, preserving, quality
    ratings: Float[np.ndarray, "4 2"]  # whole numbers 1..4: following and quality, the scale of EditReward's raters
    edit_type: str


def shapes_candidates(index: int, split: Split, seed: int = 0) -> ShapesCandidates:
    """Group number `index` of a split: the same for the same three arguments, on every machine."""
    # The order of the draws is part of the data: another order gives other groups.
    rng = np.random.default_rng([seed, SPLITS.index(split), index, _STREAM])
    scene, edit = sample_case(rng, split)
    all_faults = [sample_faults(rng, scene, edit) for _ in range(CANDIDATES)]
    edited = np.stack([to_uint8(render_faulty(rng, scene, faults)) for faults in all_faults])
    source, ideal = to_uint8(render(scene)), to_uint8(render(edit.apply(scene)))
    repeated = [np.broadcast_to(image, edited.shape) for image in (source, ideal)]
    scores = judge_batch(edited, *repeated, [edit.type] * CANDIDATES)
    return ShapesCandidates(
        key=f"{split}-{seed}-{index}",
        instruction=choose(rng, instructions(edit)),
        source=source,
        ideal=ideal,
        candidates=edited,
        scores=scores,
        ratings=to_ratings(scores),
        edit_type=edit.type,
    )


def to_ratings(scores: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 2"]:
    """Ratings 1..4 of following and quality from scores 0..5 of following, preserving and quality.

    EditReward's raters count unrequested changes against following (its third criterion, exclusivity), so the rating is
    that of the lower of following and preserving.
    """
    rated = np.stack([scores[:, :2].min(axis=1), scores[:, 2]], axis=1)
    return (1 + np.rint(3 * rated / 5)).astype(np.float32)


class ShapesPreferencesBuilder(GeneratedBuilder):
    """Groups of four imperfect edits of procedural scenes, with the oracle's scores and ratings derived from them."""

    name = "shapes_preferences"
    unit = " groups"
    VERSION = tfds.core.Version("1.0.0")

    features: ClassVar = {
        "key": tfds.features.Text(),
        "instruction": tfds.features.Text(),
        "source": PICTURE,
        "ideal": PICTURE,
        # Stacked vertically: one PNG decodes faster than four.
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
    """Writes `train` and `test` groups of four unless they exist, and returns their folder."""
    return prepare(ShapesPreferencesBuilder, data_dir, train, test, seed)


class ShapesPreferences:
    """All pairs of one split, six per group, in order. A `data.records.PreferenceSource`."""

    def __init__(self, path: str | Path, split: Split):
        builder = tfds.builder_from_directory(str(path))
        self._groups = builder.as_data_source(split)
        # Labels of all pairs are needed at once, for the ties; decoding the pictures would take most of the time.
        undecoded = dict.fromkeys(("source", "ideal", "candidates"), tfds.decode.SkipDecoding())
        groups = map(read_row, builder.as_data_source(split, decoders=undecoded))
        self.labels = [label for group in groups for label in _labels(group)]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Preference:
        number, pair = divmod(index, len(_PAIRS))
        group = self.group(number)
        images = dict(zip(("edited_a", "edited_b"), group.candidates[list(_PAIRS[pair])], strict=True))
        return Preference(**vars(self.labels[index]), source=group.source, **images)

    def group(self, number: int) -> ShapesCandidates:
        """The candidates of the pairs 6 · number to 6 · number + 5."""
        row = read_row(self._groups[number])
        row["candidates"] = row["candidates"].reshape(CANDIDATES, SIZE, SIZE, 3)
        return ShapesCandidates(**row)


def _labels(group: dict[str, Any]) -> Iterator[PreferenceLabel]:
    """One label for every pair of candidates; the higher sum of ratings is preferred."""
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
