"""Prepared data sets: folders of array_record files that TFDS and the recipes read (`config.data.name="prepared"`).

Images stay encoded as they were published. The index beside each shard has the keys, instructions, digests and further
fields, so that labelling and curation look at millions of edits without reading an image.
"""

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow
import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from rewardedit_jax.data.array_records import ArrayRecords
from rewardedit_jax.data.encoded import EncodedEdit, Stored, StoredEdits, digest
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.data.shards import StoredRow, index_file, read_index

TEXT, IMAGE = tfds.features.Text(), tfds.features.Image()
# The fields of a stored edit. `scores` is NaN and `feedback` empty where an edit is not judged; `extra` is JSON.
EDIT_FEATURES = tfds.features.FeaturesDict(
    {
        "key": TEXT,
        "instruction": TEXT,
        "source": IMAGE,
        "edited": IMAGE,
        "scores": tfds.features.Tensor(shape=(3,), dtype=np.float32),
        "feedback": tfds.features.Sequence(TEXT, length=3),
        "extra": TEXT,
    }
)


def serialize(features: tfds.features.FeaturesDict, example: dict[str, Any]) -> bytes:
    """The example as TFDS stores it; the same example is always the same bytes.

    Raises:
      BadRecords: a text is not valid Unicode; names the example by its "key".
    """
    _check_texts(example)
    message = _serializer(features).get_tf_example(features.encode_example(example))
    # Not `features.serialize_example`: without `deterministic` the fields come in an order that differs by process.
    return message.SerializeToString(deterministic=True)


def _check_texts(example: dict[str, Any]) -> None:
    # TFDS raises RuntimeError, which would be a bug here and end the run.
    for name, value in example.items():
        texts = [text for text in (value if isinstance(value, list | tuple) else [value]) if isinstance(text, str)]
        try:
            "".join(texts).encode()
        except UnicodeEncodeError as error:
            lone = error.object[error.start]
            raise BadRecords(f"{example['key']!r}: {name} has a lone surrogate, {lone!r}: no UTF-8") from error


@cache
def _serializer(features: tfds.features.FeaturesDict) -> ExampleSerializer:
    return ExampleSerializer(features.get_serialized_info())


def to_json(extra: Any) -> str:
    # Sorted: the same fields are the same bytes.
    return json.dumps(extra, ensure_ascii=False, sort_keys=True)


class Prepared(Stored):
    """The records of one split of a prepared data set, or of any TFDS folder whose records have the needed fields."""

    fields: ClassVar[tfds.features.FeaturesDict]  # of the records
    needed: ClassVar[tuple[str, ...]]  # of these, those that a folder of another program must have too
    columns: ClassVar[tuple[str, ...]]  # of the index

    def __init__(self, folder: str | Path, split: str = "train"):
        """Reads the folder's description, and of each shard the positions of its records.

        Raises:
          FileNotFoundError: the folder is not a prepared data set, or its preparation has not finished.
          BadRecords: its records are of another kind, or it has no such split.
        """
        self.folder, self.split = Path(folder), split
        self.info = read_info(self.folder)
        check_fields(self.folder, self.info, self.needed)
        self._features = self.info.features
        images = [name for name, feature in self._features.items() if isinstance(feature, tfds.features.Image)]
        self._decoders = dict.fromkeys(images, tfds.decode.SkipDecoding())
        self._further = [name for name in self._features if name not in {*images, *self.fields}]
        self._records = ArrayRecords(split_files(self.folder, self.info, split))

    def __len__(self) -> int:
        return len(self._records)

    def keys(self) -> list[str]:
        return self.index["key"].to_pylist()

    def instructions(self) -> list[str]:
        """All instructions."""
        return self.index["instruction"].to_pylist()

    def stored(self, index: int) -> StoredRow:
        """The record and its row of the index as they are in the files, for a copy."""
        return StoredRow(self._records[index], self.index.slice(index, 1).to_pylist()[0])

    @cached_property
    def index(self) -> pyarrow.Table:
        """A row for each record with the `columns`; `extra` is JSON."""
        files = [index_file(file) for file in split_files(self.folder, self.info, self.split)]
        if all(file.is_file() for file in files):
            # In one piece: rows of a table in a thousand pieces, one per shard, are taken a hundred times as slowly.
            return read_index(files, self.columns).combine_chunks()
        # A data set that another program prepared has no index: every record is read once.
        return pyarrow.Table.from_pylist([dict(self.index_row(self.encoded(i))) for i in range(len(self))])

    @staticmethod
    @abstractmethod
    def index_row(record: Any) -> Mapping[str, Any]:
        """The row of the index for a record as `encoded` returns it."""

    def _read(self, index: int) -> dict[str, Any]:
        """The fields of a record, texts as `str`, images encoded."""
        row = self._features.deserialize_example_np(self._records[index], decoders=self._decoders)
        return {
            name: value if name in self._decoders else _plain(self._features[name], value)
            for name, value in row.items()
        }

    def _extra(self, row: dict[str, Any]) -> dict[str, Any]:
        stored = json.loads(row["extra"]) if "extra" in row else {}
        return stored | {name: row[name] for name in self._further}


class PreparedEdits(Prepared, StoredEdits):
    """The edits of one split. Fields other than images, `scores` and `feedback` come as `EncodedEdit.extra`."""

    fields, needed = EDIT_FEATURES, ("key", "instruction", "source", "edited")
    columns = ("key", "instruction", "source_digest", "edited_digest", "extra")

    def encoded(self, index: int) -> EncodedEdit:
        row = self._read(index)
        scores = tuple(row.get("scores", [np.nan]))
        judged = not np.isnan(scores).any()
        names = tuple(f"{name} of {row['key']} ({self.folder})" for name in ("source", "edited"))
        reward = (scores, tuple(row["feedback"])) if judged else (None, None)
        return EncodedEdit(*(row[name] for name in self.needed), *reward, self._extra(row), names)

    def digests(self, index: int) -> tuple[str, str]:
        return tuple(self.index[column][index].as_py() for column in ("source_digest", "edited_digest"))

    def identities(self, indices: Sequence[int]) -> Iterator[tuple[str, str, str]]:
        columns = self.index.select(["source_digest", "edited_digest", "instruction"]).take(list(indices))
        return zip(*(column.to_pylist() for column in columns), strict=True)

    @staticmethod
    def index_row(record: EncodedEdit) -> dict[str, str]:
        digests = digest(record.source), digest(record.edited)
        values = record.key, record.instruction, *digests, to_json(record.extra)
        return dict(zip(PreparedEdits.columns, values, strict=True))


def edit_row(edit: EncodedEdit) -> StoredRow:
    """The edit as it is stored. Raises `ImageError` if one of its images cannot be decoded."""
    edit.decoded()
    example = {
        **{name: getattr(edit, name) for name in PreparedEdits.needed},
        "scores": np.asarray(edit.scores or [np.nan] * 3, np.float32),
        "feedback": edit.feedback or [""] * 3,
        "extra": to_json(edit.extra),
    }
    return StoredRow(serialize(EDIT_FEATURES, example), PreparedEdits.index_row(edit))


def read_info(folder: Path) -> tfds.core.DatasetInfo:
    """The description of a TFDS folder. Raises FileNotFoundError if it is none."""
    if not (folder / "dataset_info.json").is_file():
        begun = any(folder.glob("*.plan.json"))
        reason = "its preparation has not finished: run the same command again" if begun else "it is not prepared"
        raise FileNotFoundError(f"{folder} has no dataset_info.json ({reason}); see launch/prepare_data.py --help.")
    return tfds.builder_from_directory(str(folder)).info


def check_fields(folder: Path, info: tfds.core.DatasetInfo, needed: Sequence[str]) -> None:
    """Raises `BadRecords` if records lack one of the `needed` fields."""
    if lacking := [name for name in needed if name not in info.features]:
        raise BadRecords(f"{folder}: records have {', '.join(sorted(info.features))}, but lack {', '.join(lacking)}.")


def split_files(folder: Path, info: tfds.core.DatasetInfo, split: str) -> list[Path]:
    """The array_record files of a split. Raises `BadRecords` if there is no such split or a file is missing."""
    if split not in info.splits:
        raise BadRecords(f"{folder} has no split {split!r}: expected one of {', '.join(info.splits)}.")
    files = [folder / Path(path).name for path in info.splits[split].filepaths]
    if missing := [file.name for file in files if not file.is_file()]:
        raise BadRecords(f"{folder} lacks {missing[0]} ({len(missing)} of {len(files)} files): copy it there again.")
    return files


def _plain(feature: tfds.features.FeatureConnector, value: Any) -> Any:
    """A value of TFDS as JSON has it."""
    if isinstance(feature, tfds.features.ClassLabel):
        return feature.int2str(int(value))
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [item.decode() if isinstance(item, bytes) else item for item in value]
    return value.decode() if isinstance(value, bytes) else value
