"""EditReward-Bench as the hub has it: parquet files with one pair of edits per row, for groups of any size.

TIGER-Lab/EditReward-Bench, folders 2pair, 3pair and 4pair. Before the clean-up of December 2025 some pairs were there
twice, a few of them in contradiction (issue 15 of the repository). Contradictions are an error that names their keys,
repetitions count once.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from absl import logging

from rewardedit_jax.data.parquet_rows import ParquetRows
from rewardedit_jax.evaluation.reward_models.editreward_bench_groups import Group, ReadGroups, settle_groups
from rewardedit_jax.evaluation.reward_models.editreward_bench_json import LETTERS
from rewardedit_jax.evaluation.reward_models.edits import Edit
from rewardedit_jax.evaluation.reward_models.json_records import listed

_IMAGES = ("source_image", "candidate_1", "candidate_2")
_TEXTS = ("id", "dataset", "instruction", "ranking", "comparison_type", "model_1", "model_2")
_SIZES = {"2pair": 2, "3pair": 3, "4pair": 4}
_EXPECTED = f"""expected:
  <directory>/{{{",".join(_SIZES)}}}/
    *.parquet   columns {", ".join((*_TEXTS, *_IMAGES))}
Hugging Face hub: TIGER-Lab/EditReward-Bench."""


def read_hub_groups(directory: Path, *, skip_bad: bool = False) -> ReadGroups:
    """The groups of all parquet files under a directory; their images are held in memory, encoded.

    The key of a group is its data set and the part of `id` before the first "_", or else the first ten letters; of
    two edits also their models.

    Raises:
      FileNotFoundError: if there is no parquet file.
      BadRecords: for a file of another layout, or with all faults of groups, by key: contradictory rankings, missing
        pairs, unknown rankings, pairs that make no order. With `skip_bad` these groups are left out, and told of.
    """
    rows = ParquetRows(directory, (*_TEXTS, *_IMAGES), _EXPECTED)
    drafts: dict[str, _Draft] = {}
    groups: list[Group] = []
    faults: dict[str, list[str]] = {}
    for i in range(len(rows)):
        row = rows[i]
        if fault := _fault(row):
            faults.setdefault(_called(row, rows.name(i)), []).append(f"{rows.name(i)}: {fault}")
            continue
        new = _Draft(_SIZES[row["dataset"]], row["source_image"]["bytes"], row["instruction"])
        drafts.setdefault(group_key(row), new).add(row)
    for key, draft in drafts.items():
        try:
            groups.append(draft.group(key))
        except ValueError as fault:
            faults.setdefault(key, []).append(str(fault))
    return settle_groups(groups, faults, str(directory), skip_bad)


@dataclass
class _Draft:
    """What the rows of one group have said so far. Edits are named by letter, or by model where there are two."""

    size: int
    source: bytes
    instruction: str
    images: dict[str, bytes] = field(default_factory=dict)
    winner: dict[frozenset[str], str | None] = field(default_factory=dict)  # of a pair; None for a tie
    faults: list[str] = field(default_factory=list)
    repeated: int = 0
    differing: set[str] = field(default_factory=set)  # what not all rows show alike

    def add(self, row: dict[str, Any]) -> None:
        letters = compared_letters(row["comparison_type"], self.size)
        names = edit_names(row, letters, self.size)
        self._add_shown(row, names)
        won = _winner(row["ranking"], letters)
        if won == "" or (won is None and self.size > 2):
            self.faults.append(f"unknown ranking {row['ranking']!r} of {row['comparison_type']}")
            return
        pair, winner = frozenset(names), None if won is None else names[letters.index(won)]
        self.repeated += pair in self.winner
        if self.winner.setdefault(pair, winner) != winner:
            self.faults.append(f"contradictory rankings of {row['model_1']} and {row['model_2']}")

    def _add_shown(self, row: dict[str, Any], names: Sequence[str]) -> None:
        pictures = {name: row[column]["bytes"] for name, column in zip(names, _IMAGES[1:], strict=True)}
        for name, picture in pictures.items():
            self.images.setdefault(name, picture)
        first = {"source": self.source, "instruction": self.instruction, **self.images}
        shown = {"source": row["source_image"]["bytes"], "instruction": row["instruction"], **pictures}
        self.differing |= {name for name, value in shown.items() if first[name] != value}

    def group(self, key: str) -> Group:
        """Raises ValueError, with all faults, if the rows do not make a group."""
        names = list(self.images) if self.size == 2 else list(LETTERS[: self.size])
        winners = list(self.winner.values())
        best_first = sorted(names, key=winners.count, reverse=True)
        if faults := self.faults or self._order_faults(names):
            raise ValueError(f"{key}: {'; '.join(faults)}")
        if self.repeated:
            logging.warning("%s: %d pairs are there once more with the same ranking.", key, self.repeated)
        if self.differing:
            logging.warning("%s: rows differ in %s; the first counts.", key, ", ".join(sorted(self.differing)))
        edits = [Edit(self.source, self.images[name], self.instruction, f"{key}, edit {name}") for name in names]
        return Group(key, tuple(edits), None if None in winners else tuple(map(names.index, best_first)))

    def _order_faults(self, names: list[str]) -> list[str]:
        pairs = {frozenset(pair) for pair in combinations(names, 2)}
        if pairs != self.winner.keys():
            return [f"has {len(self.winner)} of the {len(pairs)} pairs of {self.size} edits"]
        winners = list(self.winner.values())
        in_order = None in winners or sorted(map(winners.count, names)) == list(range(self.size))
        return [] if in_order else ["its pairs make no order"]


def _fault(row: dict[str, Any]) -> str | None:
    wrong = [name for name in _TEXTS if not isinstance(row[name], str) or not row[name]]
    wrong += [name for name in _IMAGES if not isinstance(row[name], dict) or not row[name].get("bytes")]
    if wrong:
        return f"no {listed(wrong)}"
    if row["dataset"] not in _SIZES:
        return f"unknown dataset {row['dataset']!r}; known are {', '.join(_SIZES)}"
    if not compared_letters(row["comparison_type"], _SIZES[row["dataset"]]):
        return f"unknown comparison_type {row['comparison_type']!r}"
    return None


def _called(row: dict[str, Any], name: str) -> str:
    """The key of a faulty row's group, or where it does not say, the name of the row."""
    said = all(isinstance(row[key], str) and row[key] for key in ("id", "dataset", "model_1", "model_2"))
    return group_key(row) if said and row["dataset"] in _SIZES else name


def compared_letters(comparison_type: str, size: int) -> tuple[str, ...]:
    """The letters of two edits, `AvsC`, of a group of this size; none for what names no two."""
    known = LETTERS[:size]
    return tuple(comparison_type.split("vs")) if re.fullmatch(rf"([{known}])vs(?!\1)[{known}]", comparison_type) else ()


def edit_names(row: dict[str, Any], letters: tuple[str, ...], size: int) -> tuple[str, ...]:
    """What tells the two edits of a row apart in any order: their letters, or of a group of two their models."""
    models = row["model_1"], row["model_2"]
    return models if size == 2 and models[0] != models[1] else letters


def _winner(ranking: str, letters: tuple[str, ...]) -> str | None:
    """The letter ranked higher, None for a tie, "" for what is neither."""
    first, second = letters
    return {f"{first}>{second}": first, f"{second}>{first}": second, f"{first}={second}": None}.get(ranking, "")


def group_key(row: dict[str, Any]) -> str:
    """What names the group of a row, by its `dataset`, `id` and, of two edits, models."""
    before, underscore, _ = row["id"].partition("_")
    key = f"{row['dataset']} {before if underscore else row['id'][:10]}"
    return f"{key} ({', '.join(sorted((row['model_1'], row['model_2'])))})" if row["dataset"] == "2pair" else key
