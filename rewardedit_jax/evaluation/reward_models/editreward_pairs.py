"""EditReward-Bench in its two layouts with one pair of edits per row: the hub's parquet files, and a judge's answers.

The hub, TIGER-Lab/EditReward-Bench, has folders 2pair, 3pair and 4pair. Before December 2025 some of its pairs were
there twice, a few of them with contradictory rankings (issue 15 of TIGER-AI-Lab/EditReward): repetitions count once,
contradictions are errors.

A judge compares two edits at a time. EditReward's `inference_{2,3,4}pair_hf.py` write {"results": [...]} with an object
per pair: `id`, `human_vote`, `model_vote`, `model_1`, `model_2` and `comparison_type` (`AvsC`: A is shown first); or
null where the judge failed. Votes are `A>C` or `C>A`, for two edits also `A=B`; the judge's vote can also be `Unknown`
or concern other edits than the two shown, `B>C`. These are the rows of the VLMs in table 2 of EditReward
(arXiv:2509.26346).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Bool

from rewardedit_jax.data.bad_records import BadRecords, indented
from rewardedit_jax.data.parquet_rows import ParquetRows
from rewardedit_jax.evaluation.report import Report, Row, listed, sound_share
from rewardedit_jax.evaluation.reward_models.editreward_bench import LETTERS, Group, ReadGroups, without_faulty
from rewardedit_jax.evaluation.reward_models.edits import Edit, read_json
from rewardedit_jax.evaluation.reward_models.genai_bench import (
    FIRST,
    SECOND,
    UNKNOWN,
    Vote,
    mean_over_orders,
    same_answer,
)

_IMAGES = ("source_image", "candidate_1", "candidate_2")
_TEXTS = ("id", "dataset", "instruction", "ranking", "comparison_type", "model_1", "model_2")
_SIZES = {"2pair": 2, "3pair": 3, "4pair": 4}
_HUB_LAYOUT = f"""expected:
  <directory>/{{{",".join(_SIZES)}}}/
    *.parquet   columns {", ".join((*_TEXTS, *_IMAGES))}
Hugging Face hub: TIGER-Lab/EditReward-Bench."""
_ANSWER_KEYS = ("id", "human_vote", "model_vote", "model_1", "model_2")
_TIE = "[[A=B]]"


# Names that both layouts share.


def _compared_letters(comparison_type: str, size: int) -> tuple[str, ...]:
    """The letters in a `comparison_type` such as `AvsC`; () if they are not two edits of a group of this size."""
    known = LETTERS[:size]
    return tuple(comparison_type.split("vs")) if re.fullmatch(rf"([{known}])vs(?!\1)[{known}]", comparison_type) else ()


def _edit_names(row: dict[str, Any], letters: tuple[str, ...], size: int) -> tuple[str, ...]:
    """Names of a row's two edits that do not depend on their order: models in groups of two, letters otherwise."""
    models = row["model_1"], row["model_2"]
    return models if size == 2 and models[0] != models[1] else letters


def _group_key(row: dict[str, Any]) -> str:
    """The key of a row's group: its data set and the part of its `id` before "_", else the first ten letters."""
    before, underscore, _ = row["id"].partition("_")
    key = f"{row['dataset']} {before if underscore else row['id'][:10]}"
    # An id occurs in several groups of two, which differ by their models.
    return f"{key} ({', '.join(sorted((row['model_1'], row['model_2'])))})" if row["dataset"] == "2pair" else key


# The hub's parquet files.


def read_hub_groups(directory: Path, *, skip_bad: bool = False) -> ReadGroups:
    """The groups of all parquet files under a directory; their encoded images are held in memory.

    Raises:
      FileNotFoundError: if there is no parquet file.
      BadRecords: for a file of another layout, or listing the faults of groups by key: contradictory rankings, missing
        pairs, unknown rankings, pairs without a consistent order. With `skip_bad` these groups are left out.
    """
    rows = ParquetRows(directory, (*_TEXTS, *_IMAGES), _HUB_LAYOUT)
    drafts: dict[str, _Draft] = {}
    groups: list[Group] = []
    faults: dict[str, list[str]] = {}
    for i in range(len(rows)):
        row = rows[i]
        if fault := _row_fault(row):
            faults.setdefault(_key_or_name(row, rows.name(i)), []).append(f"{rows.name(i)}: {fault}")
            continue
        new = _Draft(_SIZES[row["dataset"]], row["source_image"]["bytes"], row["instruction"])
        drafts.setdefault(_group_key(row), new).add(row)
    for key, draft in drafts.items():
        try:
            groups.append(draft.group(key))
        except ValueError as fault:
            faults.setdefault(key, []).append(str(fault))
    return without_faulty(groups, faults, str(directory), skip_bad)


@dataclass
class _Draft:
    """The rows of one group that were read so far, by the names of its edits."""

    size: int
    source: bytes
    instruction: str
    images: dict[str, bytes] = field(default_factory=dict)
    winner: dict[frozenset[str], str | None] = field(default_factory=dict)  # of each pair; None for a tie
    faults: list[str] = field(default_factory=list)
    repeated: int = 0
    differing: set[str] = field(default_factory=set)  # what is not the same in all rows

    def add(self, row: dict[str, Any]) -> None:
        letters = _compared_letters(row["comparison_type"], self.size)
        names = _edit_names(row, letters, self.size)
        self._add_images(row, names)
        won = _winning_letter(row["ranking"], letters)
        if won == "" or (won is None and self.size > 2):
            self.faults.append(f"unknown ranking {row['ranking']!r} of {row['comparison_type']}")
            return
        pair, winner = frozenset(names), None if won is None else names[letters.index(won)]
        self.repeated += pair in self.winner
        if self.winner.setdefault(pair, winner) != winner:
            self.faults.append(f"contradictory rankings of {row['model_1']} and {row['model_2']}")

    def _add_images(self, row: dict[str, Any], names: Sequence[str]) -> None:
        images = {name: row[column]["bytes"] for name, column in zip(names, _IMAGES[1:], strict=True)}
        for name, image in images.items():
            self.images.setdefault(name, image)
        first = {"source": self.source, "instruction": self.instruction, **self.images}
        shown = {"source": row["source_image"]["bytes"], "instruction": row["instruction"], **images}
        self.differing |= {name for name, value in shown.items() if first[name] != value}

    def group(self, key: str) -> Group:
        """The complete group. Raises ValueError with all faults if the rows do not make one."""
        names = list(self.images) if self.size == 2 else list(LETTERS[: self.size])
        winners = list(self.winner.values())
        # In a consistent order of k edits, the best one wins k - 1 pairs, the next one k - 2, ...
        best_first = sorted(names, key=winners.count, reverse=True)
        if faults := self.faults or self._order_faults(names):
            raise ValueError(f"{key}: {'; '.join(faults)}")
        if self.repeated:
            logging.warning("%s: %d pairs occur again with the same ranking; they count once.", key, self.repeated)
        if self.differing:
            logging.warning("%s: rows differ in %s; the first row counts.", key, ", ".join(sorted(self.differing)))
        edits = [Edit(self.source, self.images[name], self.instruction, f"{key}, edit {name}") for name in names]
        return Group(key, tuple(edits), None if None in winners else tuple(map(names.index, best_first)))

    def _order_faults(self, names: list[str]) -> list[str]:
        pairs = {frozenset(pair) for pair in combinations(names, 2)}
        if pairs != self.winner.keys():
            return [f"has {len(self.winner)} of the {len(pairs)} pairs of {self.size} edits"]
        winners = list(self.winner.values())
        consistent = None in winners or sorted(map(winners.count, names)) == list(range(self.size))
        return [] if consistent else ["its pairs make no order"]


def _row_fault(row: dict[str, Any]) -> str | None:
    wrong = [name for name in _TEXTS if not isinstance(row[name], str) or not row[name]]
    wrong += [name for name in _IMAGES if not isinstance(row[name], dict) or not row[name].get("bytes")]
    if wrong:
        return f"no {listed(wrong)}"
    if row["dataset"] not in _SIZES:
        return f"dataset is {row['dataset']!r}; expected {', '.join(_SIZES)}"
    if not _compared_letters(row["comparison_type"], _SIZES[row["dataset"]]):
        return f"unknown comparison_type {row['comparison_type']!r}"
    return None


def _key_or_name(row: dict[str, Any], name: str) -> str:
    """The key of a faulty row's group, or the name of the row if it does not identify a group."""
    complete = all(isinstance(row[key], str) and row[key] for key in ("id", "dataset", "model_1", "model_2"))
    return _group_key(row) if complete and row["dataset"] in _SIZES else name


def _winning_letter(ranking: str, letters: tuple[str, ...]) -> str | None:
    """The letter that is ranked higher, None for a tie, "" for an unknown ranking."""
    first, second = letters
    return {f"{first}>{second}": first, f"{second}>{first}": second, f"{first}={second}": None}.get(ranking, "")


# Stored answers of a judge.


@dataclass(frozen=True)
class Answer(Vote):
    """A judge's vote on one pair of a group."""

    group: str  # key of the group


def read_answers(file: Path, size: int) -> list[Answer | None]:
    """The answers about the pairs of groups of `size` edits; None where the judge failed.

    Raises:
      FileNotFoundError, ValueError: if the file is missing or of another layout, naming the wrong result and its group.
      BadRecords: listing the pairs that occur more than once.
    """
    layout = 'a judge\'s answers, {"results": [...]}, with an object or null per pair'
    content = read_json(file, layout)
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, list) or not results:
        raise ValueError(f"{file} has no results; expected {layout}")
    answers = [None if r is None else _answer(r, size, f"{file}, result {i}") for i, r in enumerate(results)]
    _check_repeated(answers, results, size, file)
    return answers


def _answer(result: Any, size: int, name: str) -> Answer:
    keys = (*_ANSWER_KEYS, "comparison_type") if size > 2 else _ANSWER_KEYS
    if lacking := [key for key in keys if not isinstance(result, dict) or not isinstance(result.get(key), str)]:
        raise ValueError(f"{name}: no {', '.join(lacking)}")
    group = _group_key({**result, "dataset": f"{size}pair"})
    name, shown = f"{name}, {group}", _comparison_type(result)
    if not (letters := _compared_letters(shown, size)):
        raise ValueError(f"{name}: unknown comparison_type {shown!r} of {size} edits; is --size right?")
    first, second = letters
    human = {f"{first}>{second}": FIRST, f"{second}>{first}": SECOND} | ({"A=B": _TIE} if size == 2 else {})
    # A vote about other edits than the two shown is an answer, but a wrong one.
    elsewhere = [">".join(pair) for pair in permutations(LETTERS[:size], 2)]
    judged = human | {label: UNKNOWN for label in (*elsewhere, UNKNOWN) if label not in human}
    for key, known in (("human_vote", human), ("model_vote", judged)):
        if result[key] not in known:
            raise ValueError(f"{name}: {key} about {shown} is {result[key]!r}; expected {', '.join(known)}")
    pair = group if size == 2 else f"{group} {'vs'.join(sorted(letters))}"
    return Answer(pair, human[result["human_vote"]], judged[result["model_vote"]], group)


def _comparison_type(result: dict[str, Any]) -> str:
    # Groups of two have a single pair, so EditReward's code may omit its name.
    value = result.get("comparison_type")
    return "AvsB" if value is None else str(value)


def _check_repeated(answers: Sequence[Answer | None], results: Sequence[Any], size: int, file: Path) -> None:
    indices: dict[str, list[int]] = {}
    for i, answer in enumerate(answers):
        if answer:
            indices.setdefault(answer.key, []).append(i)
    lines = []
    for key, same in indices.items():
        winners = {_winner(answers[i], results[i], size) for i in same}
        votes = "contradictory human votes" if len(winners) > 1 else "the same human vote"
        if len(same) > 1:
            lines.append(f"{key}: results {listed(same)}, with {votes}")
    if lines:
        heading = f"{file}: {len(lines)} pairs occur more than once; keep one result of each:"
        raise BadRecords(indented(heading, lines))


def _winner(answer: Answer, result: dict[str, Any], size: int) -> str | None:
    """The name of the edit that people prefer; None for a tie."""
    names = _edit_names(result, _compared_letters(_comparison_type(result), size), size)
    return dict(zip((FIRST, SECOND), names, strict=True)).get(answer.human)


def evaluate_answers(
    answers: Sequence[Answer | None], size: int, other_order: Sequence[Answer | None] | None = None, seed: int = 0
) -> Report:
    """Accuracies of a judge on groups of `size` edits.

    The published denominator is the number of groups with at least one answer. The sound one is the number of groups
    that all pairs make up, answered or not.

    Args:
      other_order: the judge's answers for exchanged edits, from `genai_bench.align_swapped`. Sound measures then
        average over both orders, and the report says how often the answers agree.
      seed: seed of the bootstrap.
    """
    orders = [answers] if other_order is None else [answers, other_order]
    pairs = size * (size - 1) // 2
    published = _groups_right(answers, _groups(answers), pairs)
    groups = _groups(chain(*orders))
    # A failed answer does not say which group it belongs to; enough of them hide whole groups, which count as wrong.
    unseen = max(0, -(-len(answers) // pairs) - len(groups))
    strict = np.mean([_groups_right(order, groups, pairs) for order in orders], axis=0)
    failed = {name: order.count(None) for name, order in zip(("failed", "failed_swapped"), orders, strict=False)}
    rows = [
        *([Row("strict", "published", float(published.mean()), f"{len(published)} groups")] if len(published) else []),
        sound_share("strict", np.concatenate([strict, np.zeros(unseen)]), "groups", seed),
        sound_share("pairwise", mean_over_orders(orders, lambda answer: answer.right), "pairs", seed),
    ]
    if other_order is not None:
        rows.append(same_answer(answers, other_order, "pairs", seed))
    number = ", with edits exchanged ".join(map(str, failed.values()))
    notes = [f"{number} of {len(answers)} pairs have no answer; sound measures count them as wrong."]
    values = {f"{row.measure}, {row.protocol}": 100 * row.value for row in rows} | failed | {"seed": seed}
    return Report(f"EditReward-Bench, K = {size}: a judge's answers (%)", rows, notes, values, percent=True)


def _groups(answers: Iterable[Answer | None]) -> list[str]:
    return list(dict.fromkeys(answer.group for answer in answers if answer))


def _groups_right(answers: Sequence[Answer | None], groups: Sequence[str], pairs: int) -> Bool[np.ndarray, " groups"]:
    """Whether all pairs of each group are answered and right."""
    right: dict[str, list[bool]] = {group: [] for group in groups}
    for answer in filter(None, answers):
        right[answer.group].append(answer.right)
    return np.array([len(found) == pairs and all(found) for found in right.values()], bool)
