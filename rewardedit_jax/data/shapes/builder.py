"""The shapes world on disk: a TFDS builder that writes array_record files, and the source that reads them back."""

import io
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from rewardedit_jax.data.shapes.edits import EDIT_TYPES, Split
from rewardedit_jax.data.shapes.example import ShapesExample, shapes_example
from rewardedit_jax.data.shapes.render import SIZE

PICTURES = ("source", "edited", "ideal")
_WORTH_A_POOL = 3000  # examples; starting the workers takes as long as making about a thousand


@dataclass(kw_only=True)
class ShapesConfig(tfds.core.BuilderConfig):
    """How many examples of each split, and the seed of both."""

    train: int
    test: int
    seed: int = 0


class ShapesBuilder(tfds.core.GeneratorBasedBuilder):
    """Generates and writes both splits; `prepare_shapes` is the way to call it. Nothing is downloaded."""

    name = "shapes"
    # The first number changes with the pictures, the second with their scores: stale files are then not reused.
    VERSION = tfds.core.Version("1.1.0")
    # Nothing is downloaded; to look for checksums, TFDS would need `importlib_resources`, which it does not install.
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        picture = tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="png")
        features = {
            "key": tfds.features.Text(),
            "instruction": tfds.features.Text(),
            **dict.fromkeys(PICTURES, picture),
            "scores": tfds.features.Tensor(shape=(3,), dtype=np.float32),
            "feedback": tfds.features.Sequence(tfds.features.Text(), length=3),
            "edit_type": tfds.features.ClassLabel(names=EDIT_TYPES),
            "severity": tfds.features.Tensor(shape=(3,), dtype=np.int32),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Edits of procedural scenes, with the ideal edit and the oracle's reward of the imperfect one.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split: Split):
        config = self.builder_config
        count = getattr(config, split)
        patience = 0.5 if sys.stderr.isatty() else 30  # seconds between two lines of a log
        examples = _make_examples(split, count, config.seed)
        yield from enumerate(tqdm(examples, f"shapes, {split}", count, unit=" scenes", mininterval=patience))


def prepare_shapes(data_dir: str | Path, train: int, test: int, seed: int = 0) -> Path:
    """Writes the data set unless it is there, and returns its folder, which names the three numbers.

    An interrupted run leaves nothing under that name, so it is done again. Thousands of examples are made by worker
    processes, which are spawned: a script that calls this needs `if __name__ == "__main__"`.
    """
    config = ShapesConfig(name=f"train{train}_test{test}_seed{seed}", train=train, test=test, seed=seed)
    builder = ShapesBuilder(config=config, data_dir=str(data_dir), file_format="array_record")
    with _quiet_tfds():
        builder.download_and_prepare()
    return Path(builder.data_dir)


@contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Without its talk of downloads of unknown size: one bar for each split says all."""
    tfds.disable_progress_bar()
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()


class ShapesSource:
    """One split of a prepared data set: random access to `ShapesExample`s, which are `EditRecord`s."""

    def __init__(self, path: str | Path, split: Split):
        self._rows = tfds.builder_from_directory(str(path)).as_data_source(split)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ShapesExample:
        row = self._rows[index]
        return ShapesExample(
            key=row["key"].decode(),
            instruction=row["instruction"].decode(),
            scores=row["scores"],
            feedback=tuple(text.decode() for text in row["feedback"]),
            edit_type=EDIT_TYPES[row["edit_type"]],
            severity=tuple(row["severity"].tolist()),
            **{name: row[name] for name in PICTURES},
        )


def _make_examples(split: Split, count: int, seed: int) -> Iterator[dict]:
    make = partial(_make_example, split=split, seed=seed)
    if count < _WORTH_A_POOL:
        yield from map(make, range(count))
        return
    # Spawned, not forked: JAX's threads do not survive a fork.
    with ProcessPoolExecutor(min(8, os.cpu_count() or 1), get_context("spawn")) as pool:
        yield from pool.map(make, range(count), chunksize=64)


def _make_example(index: int, split: Split, seed: int) -> dict:
    """TFDS writes pictures without TensorFlow only if they come encoded."""
    example = shapes_example(index, split, seed)
    return {**vars(example), **{name: _png(getattr(example, name)) for name in PICTURES}}


def _png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png", compress_level=1)
    return file.getvalue()
