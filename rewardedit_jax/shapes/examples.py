"""Training examples of editors in the shapes world: a pure function of their index, and a data set on disk.

TFDS builders write array_record files; `GeneratedBuilder` and `prepare` serve every generated data set.
"""

import io
import os
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from rewardedit_jax.data.records import EditRecord, evenly_spaced
from rewardedit_jax.shapes import wording
from rewardedit_jax.shapes.faults import CLEAN, Faults, render_faulty, sample_faults
from rewardedit_jax.shapes.oracle import judge
from rewardedit_jax.shapes.render import SIZE, render, to_uint8
from rewardedit_jax.shapes.scene import EDIT_TYPES, SPLITS, Edit, Scene, Split, choose, sample_case

NAME = "shapes"  # of the data set, as `config.data.name`
PICTURES = ("source", "edited", "ideal")
PICTURE = tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="png")
_POOL_THRESHOLD = 3000  # examples from which worker processes pay; their start takes as long as about 1000 examples


@dataclass(frozen=True, eq=False)
class ShapesExample(EditRecord):
    """A record with its ideal edit. `edited` is the imperfect edit, `scores` are the oracle's."""

    ideal: UInt8[np.ndarray, "32 32 3"]
    edit_type: str  # one of EDIT_TYPES
    severity: tuple[int, int, int]  # of the faults in each perspective; 5 is clean


def shapes_example(index: int, split: Split, seed: int = 0) -> ShapesExample:
    """Example number `index` of a split: the same for the same three arguments, on every machine.

    The recorded scores are the oracle's, rounded to 0..5, and not the severities: a fault may be more or less visible
    than its severity suggests.
    """
    # The order of the draws is part of the data: another order gives other examples.
    rng = _generator(index, split, seed)
    scene, edit = sample_case(rng, split)
    faults = sample_faults(rng, scene, edit)
    source, ideal = to_uint8(render(scene)), to_uint8(render(edit.apply(scene)))
    edited = to_uint8(render_faulty(rng, scene, faults))
    scores = np.rint(judge(edited, source, ideal, edit.type)[:3]).astype(np.float32)
    return ShapesExample(
        key=f"{split}-{seed}-{index}",
        instruction=choose(rng, wording.instructions(edit)),
        source=source,
        edited=edited,
        scores=scores,
        feedback=describe(rng, edit, faults, scores),
        ideal=ideal,
        edit_type=edit.type,
        severity=faults.severity,
    )


def example_case(index: int, split: Split, seed: int = 0) -> tuple[Scene, Edit]:
    """The scene and the edit of example number `index`, which the example itself keeps as pictures only."""
    return sample_case(_generator(index, split, seed), split)


def _generator(index: int, split: Split, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS.index(split), index])


def describe(
    rng: np.random.Generator, edit: Edit, faults: Faults, scores: Sequence[float] | np.ndarray
) -> tuple[str, str, str]:
    """Feedback on an edit with these faults: one text for each perspective, "None" for a score of 5."""
    quality = wording.damage(faults.damage, faults.severity[2]) if faults.damage else wording.UNCLEAN
    failures = _following_failure(edit, faults), _preserving_failure(edit, faults), quality
    return tuple(
        wording.NOTHING_FAILED if score == CLEAN else choose(rng, wordings)
        for wordings, score in zip(failures, scores, strict=True)
    )


def _following_failure(edit: Edit, faults: Faults) -> wording.Wordings:
    if faults.made != edit:
        return wording.edit_wrong(edit, faults.made)
    if faults.done == 0:
        return wording.edit_missing(edit)
    return wording.edit_partial(edit, faults.done) if faults.done < 1 else wording.INEXACT


def _preserving_failure(edit: Edit, faults: Faults) -> wording.Wordings:
    if faults.unrequested:
        return wording.unrequested_change(faults.unrequested, slight=faults.unrequested_share < 0.6)
    # An edit of another object is an unrequested change of that object.
    if edit.subject and faults.made.subject.cell != edit.subject.cell:
        return wording.unrequested_change(faults.made, slight=False)
    return wording.DISTURBED


@dataclass(kw_only=True)
class ShapesConfig(tfds.core.BuilderConfig):
    """Number of examples in each split, and the seed of both."""

    train: int
    test: int
    seed: int = 0


class GeneratedBuilder(tfds.core.GeneratorBasedBuilder):
    """A data set that is generated, not downloaded. Subclasses define `make`, `features` and `unit`."""

    # None skips the search for checksums of downloads, which needs the undeclared dependency `importlib_resources`.
    url_infos = None
    features: ClassVar[dict[str, tfds.features.FeatureConnector]]
    unit: str  # of the progress bar

    @abstractmethod
    def make(self, index: int, split: Split, seed: int) -> dict[str, Any]:
        """Example number `index`, with its pictures as PNG. A static method, because worker processes call it."""

    def _info(self) -> tfds.core.DatasetInfo:
        # The pipeline shuffles the examples in each epoch, so TFDS need not.
        features = tfds.features.FeaturesDict(self.features)
        return tfds.core.DatasetInfo(builder=self, description=self.__doc__, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split: Split):
        count = getattr(self.builder_config, split)
        examples = _make_examples(self.make, split, count, self.builder_config.seed)
        interval = 0.5 if sys.stderr.isatty() else 30  # seconds; every update is a line of its own in a log file
        yield from enumerate(tqdm(examples, f"{self.name}, {split}", count, unit=self.unit, mininterval=interval))


class ShapesBuilder(GeneratedBuilder):
    """Imperfect edits of procedural scenes, with the ideal edits and the oracle's rewards."""

    name = NAME
    unit = " scenes"
    # The first number changes with the pictures, the second with their scores, so that stale files are not reused.
    VERSION = tfds.core.Version("1.1.0")

    features: ClassVar = {
        "key": tfds.features.Text(),
        "instruction": tfds.features.Text(),
        **dict.fromkeys(PICTURES, PICTURE),
        "scores": tfds.features.Tensor(shape=(3,), dtype=np.float32),
        "feedback": tfds.features.Sequence(tfds.features.Text(), length=3),
        "edit_type": tfds.features.ClassLabel(names=EDIT_TYPES),
        "severity": tfds.features.Tensor(shape=(3,), dtype=np.int32),
    }

    @staticmethod
    def make(index: int, split: Split, seed: int) -> dict[str, Any]:
        example = shapes_example(index, split, seed)
        return {**vars(example), **{name: to_png(getattr(example, name)) for name in PICTURES}}


def prepare_shapes(data_dir: str | Path, train: int, test: int, seed: int = 0) -> Path:
    """Writes the data set unless it exists, and returns its folder, whose name has the three numbers."""
    return prepare(ShapesBuilder, data_dir, train, test, seed)


def prepare(builder: type[GeneratedBuilder], data_dir: str | Path, train: int, test: int, seed: int = 0) -> Path:
    """Writes a generated data set unless it exists, and returns its folder, whose name has the three numbers.

    An interrupted run leaves no folder of that name and is repeated. Worker processes generate large data sets; they
    are spawned, so a script that calls this function needs `if __name__ == "__main__"`.
    """
    config = ShapesConfig(name=f"train{train}_test{test}_seed{seed}", train=train, test=test, seed=seed)
    prepared = builder(config=config, data_dir=str(data_dir), file_format="array_record")
    tfds.disable_progress_bar()  # `_generate_examples` shows its own
    try:
        with redirect_stdout(io.StringIO()):  # hides messages about downloads
            prepared.download_and_prepare()
    finally:
        tfds.enable_progress_bar()
    return Path(prepared.data_dir)


def read_row(row: dict[str, Any]) -> dict[str, Any]:
    """The row of a data set with strings in place of bytes and of the class label."""
    texts = {name: row[name].decode() for name in ("key", "instruction")}
    return {**row, **texts, "edit_type": EDIT_TYPES[row["edit_type"]]}


class ShapesSource:
    """One split of a prepared data set: random access to `ShapesExample`s, which are `EditRecord`s."""

    def __init__(self, path: str | Path, split: Split):
        self._builder, self._split = tfds.builder_from_directory(str(path)), split
        self._rows = self._builder.as_data_source(split)

    def __len__(self) -> int:
        return len(self._rows)

    def instructions(self) -> list[str]:
        """The instructions of evenly spaced records; no pictures are decoded."""
        decoders = dict.fromkeys(PICTURES, tfds.decode.SkipDecoding())
        rows = self._builder.as_data_source(self._split, decoders=decoders)
        return [rows[number]["instruction"].decode() for number in evenly_spaced(len(rows))]

    def __getitem__(self, index: int) -> ShapesExample:
        row = read_row(self._rows[index])
        row["feedback"] = tuple(text.decode() for text in row["feedback"])
        row["severity"] = tuple(row["severity"].tolist())
        return ShapesExample(**row)


def _make_examples(make: Callable[[int, Split, int], dict], split: Split, count: int, seed: int) -> Iterator[dict]:
    """Examples 0..count - 1 in order, from worker processes if there are many."""
    make = partial(make, split=split, seed=seed)
    if count < _POOL_THRESHOLD:
        yield from map(make, range(count))
        return
    # Spawned, not forked: a fork copies the locks of JAX's threads but not the threads, and may hang.
    with ProcessPoolExecutor(min(8, os.cpu_count() or 1), get_context("spawn")) as pool:
        yield from pool.map(make, range(count), chunksize=64)


def to_png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """The image as PNG bytes; TFDS needs TensorFlow to encode arrays."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png", compress_level=1)  # the fastest level
    return file.getvalue()
