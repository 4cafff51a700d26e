"""InstructPix2Pix's pairs as they are published, in folders and in parquet, and RewardEdit-20K's rewards of them.

RewardEdit-20K: Multi-Reward as Condition (Gu et al., ICLR 2025, arXiv:2411.04713), section 4.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
from absl import logging

from rewardedit_jax.data.encoded import EncodedEdit, StoredEdits
from rewardedit_jax.data.images import image_bytes
from rewardedit_jax.data.json_files import convert, read_json, validate
from rewardedit_jax.data.parquet import ParquetRows, embedded_bytes
from rewardedit_jax.data.paths import find_images
from rewardedit_jax.data.records import BadRecords, Instruction, Score, evenly_spaced, raise_or_log

_FOLDERS = """expected:
  <root>/
    seeds.json          [["0000002", ["1234567", ...]], ...]  (not read for RewardEdit)
    0000002/
      prompt.json       {"edit": "make it snow"}
      1234567_0.jpg     source (or with the suffix of another image format)
      1234567_1.jpg     edited
  RewardEdit_20K.json   {"0000002": [{"Score": 4, "Negative Prompt": "..."}, ×3], ...}  (RewardEdit only)
Hugging Face hub: Gstar666/RewardEdit; timbrooks/instructpix2pix-clip-filtered (the pairs, as parquet)."""
_COLUMNS = ("original_image", "edit_prompt", "edited_image")
_PARQUET = """expected:
  <root>/
    *.parquet   columns original_image {bytes, path}, edit_prompt text, edited_image {bytes, path}
Hugging Face hub: timbrooks/instructpix2pix-clip-filtered, folder data."""

# An entry of seeds.json: [name of a folder, its seeds].
_Seeds = tuple[str, Annotated[list[str | int], msgspec.Meta(min_length=1)]]


class _Prompt(msgspec.Struct):
    """prompt.json of a folder."""

    edit: Instruction | Annotated[list[Instruction], msgspec.Meta(min_length=1)]


class _Judgement(msgspec.Struct):
    """One perspective of a reward in RewardEdit_20K.json."""

    score: Score = msgspec.field(name="Score")
    feedback: str = msgspec.field(name="Negative Prompt")


_Reward = tuple[_Judgement, _Judgement, _Judgement]  # following, preserving, quality


class InstructPix2PixFolder(StoredEdits):
    """The clip-filtered folders: every (name, seed) of `seeds.json` is a record, in the order of the file.

    Where `prompt.json` holds several texts, record i has text i modulo their number. (The published training draws a
    name, then one of its seeds and one of its texts: there, the seeds of a name share its weight.)
    """

    def __init__(self, root: str | Path, *, skip_bad: bool = False):
        """Reads `seeds.json` and lists `root`; pairs are read at access.

        Raises:
          FileNotFoundError: shows the expected layout.
          BadRecords: listing every malformed entry and every name without a folder, unless `skip_bad` leaves them out.
        """
        self.root = Path(root)
        present, index = _list_folders(self.root), self.root / "seeds.json"
        # Entries are validated one by one below, so that all faults come in one error.
        seeds = _read_index(index, list[Any])
        entries, faults = validate([(f"entry {i}", entry) for i, entry in enumerate(seeds)], _Seeds)
        good, bad = convert(entries, lambda entry: _seeds_of_folder(*entry.value, present))
        self.faults = raise_or_log(faults + bad, str(index), skip_bad)
        self._pairs = [pair for entry in good for pair in entry.value]

    def __len__(self) -> int:
        return len(self._pairs)

    def instructions(self) -> list[str]:
        """The instructions of evenly spaced records."""
        return _some_instructions(self.root, self._pairs)

    def keys(self) -> list[str]:
        return [f"{name}/{seed}" for name, seed in self._pairs]

    def encoded(self, index: int) -> EncodedEdit:
        name, seed = self._pairs[index]
        # range(...)[index] counts negative numbers from the end, as the list does: record -1 has the text of the last.
        return _read_pair(f"{name}/{seed}", self.root / name, seed, range(len(self))[index])


class RewardEditFolder(StoredEdits):
    """RewardEdit-20K: rewards of InstructPix2Pix folders in a JSON file, one record per name, in its order.

    The file names folders, not pairs. Of a folder with several pairs the first by file name is read.
    """

    def __init__(self, root: str | Path, rewards_json: str | Path, *, skip_bad: bool = False):
        """Reads the rewards and lists `root`; pairs are read at access.

        Args:
          root: the directory of the folders.
          rewards_json: `{name: [{"Score": 0..5, "Negative Prompt": text}, ×3]}`, in the order following, preserving,
            quality.
        Raises:
          FileNotFoundError, BadRecords: as `InstructPix2PixFolder`.
        """
        self.root = Path(root)
        present, rewards = _list_folders(self.root), _read_index(Path(rewards_json), dict[str, Any])
        faults = [f"{name}: no such folder" for name in rewards if name not in present]
        entries, malformed = validate([pair for pair in rewards.items() if pair[0] in present], _Reward)
        self.faults = raise_or_log(faults + malformed, str(rewards_json), skip_bad)
        self._rewards = [(entry.name, entry.value) for entry in entries]

    def __len__(self) -> int:
        return len(self._rewards)

    def instructions(self) -> list[str]:
        """The instructions of evenly spaced records."""
        return _some_instructions(self.root, self._rewards)

    def keys(self) -> list[str]:
        return [name for name, _ in self._rewards]

    def encoded(self, index: int) -> EncodedEdit:
        name, reward = self._rewards[index]
        edit = _read_pair(name, self.root / name, self._seed(name), range(len(self))[index])
        scores = tuple(float(part.score) for part in reward)
        return replace(edit, scores=scores, feedback=tuple(part.feedback for part in reward))

    def _seed(self, name: str) -> str:
        # Sorted: the order of a directory depends on the file system.
        stems = {image.stem for image in find_images(self.root / name)[0]}
        seeds = sorted(stem.removesuffix("_0") for stem in stems if stem.endswith("_0"))
        if not seeds:
            raise BadRecords(f"{self.root / name}: no <seed>_0.jpg.")
        if len(seeds) > 1:
            # The file does not say which pair was judged. Logged once: a line per folder would drown the log.
            message = "%s has %d pairs, the first is read; other folders with several pairs are not logged."
            logging.log_first_n(logging.WARNING, message, 1, self.root / name, len(seeds))
        return seeds[0]


class InstructPix2PixParquet(StoredEdits):
    """The rows of parquet files, in the order of the files; of a directory, all `*.parquet` under it.

    Good for looking at the data or converting it. Train from folders: shuffled rows of parquet are slow (`parquet`).
    """

    def __init__(self, files: str | Path | Sequence[str | Path]):
        """Reads the footer of every file. Raises FileNotFoundError and `BadRecords` as `ParquetRows`."""
        self._rows = ParquetRows(files, _COLUMNS, _PARQUET)

    def __len__(self) -> int:
        return len(self._rows)

    def instructions(self) -> list[Any]:
        """The column of the instructions."""
        return [row["edit_prompt"] for row in self._rows.only(["edit_prompt"])]

    def keys(self) -> list[str]:
        return [f"{index:06d}" for index in range(len(self))]

    def fingerprint_texts(self) -> list[str]:
        # The keys of two data sets of one size are the same.
        return [*self.keys(), *map(str, self.instructions())]

    def encoded(self, index: int) -> EncodedEdit:
        index = range(len(self))[index]  # negative numbers count from the end; IndexError beyond
        row, name = self._rows[index], self._rows.name(index)
        if not isinstance(row["edit_prompt"], str) or not row["edit_prompt"].strip():
            raise BadRecords(f"{name}: edit_prompt={row['edit_prompt']!r}: expected a text that is not blank.")
        columns = _COLUMNS[::2]
        names = tuple(f"{column} of {name}" for column in columns)
        images = (embedded_bytes(row[column], label) for column, label in zip(columns, names, strict=True))
        return EncodedEdit(f"{index:06d}", row["edit_prompt"], *images, names=names)


def _list_folders(root: Path) -> set[str]:
    # One listing instead of a check per name: there are tens of thousands, often on a network file system.
    if not root.is_dir():
        raise FileNotFoundError(f"no directory {root}; {_FOLDERS}")
    with os.scandir(root) as entries:
        return {entry.name for entry in entries if entry.is_dir()}


def _seeds_of_folder(name: str, seeds: Sequence[str | int], present: set[str]) -> list[tuple[str, str]]:
    """The (name, seed) of each pair. Raises ValueError unless they are files of that folder."""
    if name not in present:
        raise ValueError(f"{name}: no such folder")
    # A seed with a slash would be a path that may lead anywhere.
    if bad := [seed for seed in map(str, seeds) if set(seed) & set("/\\\0")]:
        raise ValueError(f"seed {bad[0]!r} of {name}: expected a part of a file name, without slashes")
    return [(name, str(seed)) for seed in seeds]


def _read_index(path: Path, type_: Any) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; {_FOLDERS}")
    return read_json(path, type_)


def _read_pair(key: str, folder: Path, seed: str, number: int) -> EncodedEdit:
    """The pair of a seed; of several texts, it has text `number` modulo their number."""
    files = [_image_file(folder, f"{seed}_{i}") for i in (0, 1)]
    images, names = map(image_bytes, files), tuple(map(str, files))
    return EncodedEdit(key, _read_instruction(folder, number), *images, names=names)


def _read_instruction(folder: Path, number: int) -> str:
    try:
        edit = read_json(folder / "prompt.json", _Prompt).edit
    except OSError as error:
        raise BadRecords(f"{folder / 'prompt.json'} cannot be read: {error.strerror}") from error
    return edit if isinstance(edit, str) else edit[number % len(edit)]


def _some_instructions(root: Path, records: Sequence[tuple[str, Any]]) -> list[str]:
    """Those instructions of evenly spaced records that can be read. Each is a file of its own."""
    found = []
    for number in evenly_spaced(len(records)):
        with suppress(BadRecords):  # named when the record is trained on
            found.append(_read_instruction(root / records[number][0], number))
    return found


def _image_file(folder: Path, stem: str) -> Path:
    """The .jpg file of this name, as published, or else an image with another suffix."""
    published = folder / f"{stem}.jpg"
    if published.is_file():
        return published
    return next((image for image in find_images(folder)[0] if image.stem == stem), published)
