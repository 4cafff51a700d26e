"""EditReward-Bench in its two layouts with one pair of edits per row: the hub's parquet files, and a judge's answers.

The hub, TIGER-Lab/EditReward-Bench, has folders 2pair, 3pair and 4pair. Before December 2025 some of its pairs were
there twice, a few of them with contradictory rankings (issue 15 of TIGER-AI-Lab/EditReward): repetitions count once,
contradictions are errors.

A judge compares two edits at a time. EditReward's `inference_{2,3,4}pair_hf.py` write {"results": [...]} with an object
per pair: `id`, `human_vote`, `model_vote`, `model_response` (the judge's text), `model_1`, `model_2` and
`comparison_type` (`AvsC`: A is shown first); or null where the judge failed. Votes are `A>C` or `C>A`, for two edits
also `A=B`. The judge's vote may concern other edits than the two shown, `B>C`, which is wrong; any other word, such as
`Unknown`, is a lost answer. These are the rows of the VLMs in table 2 of EditReward (arXiv:2509.26346).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, permutations
from math import comb
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from absl import logging
from jaxtyping import Bool

from rewardedit_jax.data.json_files import read_json
from rewardedit_jax.data.parquet import ParquetRows
from rewardedit_jax.data.records import BadRecords, Instruction
from rewardedit_jax.evaluation.report import Report, Row, sound_share
from rewardedit_jax.evaluation.reward_models import answers as judge
from rewardedit_jax.evaluation.reward_models.editreward_bench import LETTERS, Group, ReadGroups, without_faulty
from rewardedit_jax.evaluation.reward_models.edits import Edit
from rewardedit_jax.evaluation.reward_models.records import EmbeddedImage, Records, Text, check_record
from rewardedit_jax.evaluation.statistics import indices_by_value
from rewardedit_jax.listing import list_lines, list_names

# Names that both layouts share.


def _compared_letters(shown: str | None, size: int) -> tuple[str, ...]:
    """The letters in a `comparison_type` such as `AvsC`; () if they are not two edits of a group of this size."""
    # Groups of two have a single pair, so a judge's answers may omit its name.
    shown = "AvsB" if shown is None and size == 2 else str(shown)
    known = LETTERS[:size]
    return tuple(shown.split("vs")) if re.fullmatch(rf"([{known}])vs(?!\1)[{known}]", shown) else ()


def _edit_names(row: "_HubRow | _Result", size: int) -> tuple[str, ...]:
    """Names of a row's two edits that do not depend on their order: models in groups of two, letters otherwise."""
    by_model = size == 2 and row.model_1 != row.model_2
    return (row.model_1, row.model_2) if by_model else _compared_letters(row.comparison_type, size)


def _group_key(row: "_GroupId | _Result", size: int) -> str:
    """The key of a row's group: its data set and the part of its `id` before "_", else the first ten letters."""
    before, underscore, _ = row.id.partition("_")
    key = f"{size}pair {before if underscore else row.id[:10]}"
    # An id occurs in several groups of two, which differ by their models.
    return f"{key} ({', '.join(sorted((row.model_1, row.model_2)))})" if size == 2 else key


# The hub's parquet files.


class _GroupId(msgspec.Struct):
    id: Text
    dataset: Literal["2pair", "3pair", "4pair"]
    model_1: Text
    model_2: Text

    @property
    def size(self) -> int:
        return int(self.dataset[0])


class _HubRow(_GroupId):
    comparison_type: Text
    instruction: Instruction
    ranking: Text
    source_image: EmbeddedImage
    candidate_1: EmbeddedImage
    candidate_2: EmbeddedImage


_HUB_LAYOUT = f"expected the hub's TIGER-Lab/EditReward-Bench, with columns {', '.join(_HubRow.__struct_fields__)}."


def read_hub_groups(directory: Path, *, skip_bad: int | float = 0) -> ReadGroups:
    """The groups of all parquet files under a directory; their encoded images are held in memory.

    Groups with contradictory or unknown rankings, missing pairs, or pairs without a consistent order are errors, or
    left out: at most `skip_bad` (True: any number).
    """
    rows = ParquetRows(directory, _HubRow.__struct_fields__, _HUB_LAYOUT)
    rows_of: dict[str, list[_HubRow]] = {}
    groups: list[Group] = []
    faults: dict[str, list[str]] = {}
    images: dict[bytes, EmbeddedImage] = {}
    for i in range(len(rows)):
        content = rows[i]
        key = name = rows.name(i)
        try:
            row = check_record(content, _GroupId, name)
            # From here on, a fault leaves out the whole group: its order would have a gap without this row.
            key = _group_key(row, row.size)
            row = check_record(content, _HubRow, name)
            if not _compared_letters(row.comparison_type, row.size):
                raise ValueError(f"{name}: unknown comparison_type {row.comparison_type!r}")
        except ValueError as fault:
            faults.setdefault(key, []).append(str(fault))
            continue
        for column in ("source_image", "candidate_1", "candidate_2"):
            # The rows of a group repeat its images: equal ones share their memory.
            image = getattr(row, column)
            setattr(row, column, images.setdefault(image.bytes, image))
        rows_of.setdefault(key, []).append(row)  # rows of a group need not be adjacent
    # Faults of all groups are collected, so that a file is repaired in one go.
    for key, members in rows_of.items():
        try:
            groups.append(_hub_group(key, members, members[0].size))
        except ValueError as fault:
            faults.setdefault(key, []).append(str(fault))
    return without_faulty(groups, faults, directory, skip_bad)


def _hub_group(key: str, rows: Sequence[_HubRow], size: int) -> Group:
    """The group of these rows. Raises ValueError, listing the faults, if they do not make one."""
    names = _edit_names(rows[0], size) if size == 2 else tuple(LETTERS[:size])
    contents, differing = _contents(rows, size)
    winner, faults = _winners(rows, size)
    if faults := faults or _order_faults(winner, names):
        raise ValueError(f"{key}: {'; '.join(faults)}")
    if repeated := len(rows) - len(winner):
        logging.warning("%s: %d pairs occur again with the same ranking; they count once.", key, repeated)
    if differing:
        logging.warning("%s: rows differ in %s; the first row counts.", key, ", ".join(sorted(differing)))
    source, instruction = contents["source"], contents["instruction"]
    edits = tuple(Edit(source, contents[name], instruction, f"{key}, edit {name}") for name in names)
    wins = list(winner.values())
    # In a consistent order of k edits, the best one wins k - 1 pairs, the next one k - 2, and so on.
    best_first = sorted(names, key=wins.count, reverse=True)
    return Group(key, edits, None if None in wins else tuple(map(names.index, best_first)))


def _contents(rows: Sequence[_HubRow], size: int) -> tuple[dict[str, Any], set[str]]:
    """Source image, instruction and edits by name, from the first row that has them; the names of differing ones."""
    contents: dict[str, Any] = {}
    differing: set[str] = set()
    for row in rows:
        shown = {"source": row.source_image.bytes, "instruction": row.instruction}
        shown |= zip(_edit_names(row, size), (row.candidate_1.bytes, row.candidate_2.bytes), strict=True)
        differing |= {name for name, value in shown.items() if contents.setdefault(name, value) != value}
    return contents, differing


def _winners(rows: Sequence[_HubRow], size: int) -> tuple[dict[frozenset[str], str | None], list[str]]:
    """The name of the better edit of each pair (None for a tie), and the faults of the rankings."""
    winner: dict[frozenset[str], str | None] = {}
    faults = []
    for row in rows:
        (first, second), names = _compared_letters(row.comparison_type, size), _edit_names(row, size)
        rankings = {f"{first}>{second}": names[0], f"{second}>{first}": names[1]}
        # Only groups of two may be ties.
        rankings |= {f"{first}={second}": None} if size == 2 else {}
        if row.ranking not in rankings:
            faults.append(f"unknown ranking {row.ranking!r} of {row.comparison_type}")
        elif winner.setdefault(frozenset(names), better := rankings[row.ranking]) != better:
            faults.append(f"contradictory rankings of {row.model_1} and {row.model_2}")
    return winner, faults


def _order_faults(winner: dict[frozenset[str], str | None], names: Sequence[str]) -> list[str]:
    if len(winner) < (pairs := comb(len(names), 2)):
        return [f"has {len(winner)} of the {pairs} pairs of {len(names)} edits"]
    wins = list(winner.values())
    consistent = None in wins or sorted(map(wins.count, names)) == list(range(len(names)))
    return [] if consistent else ["its pairs make no order"]


# Stored answers of a judge.


@dataclass(frozen=True)
class Answer(judge.Vote):
    """A judge's vote on one pair of a group."""

    group: str  # key of the group
    winner: str | None  # name of the edit that people prefer; None for a tie


Answers = Sequence[Answer | None]  # None: nothing is stored, not even the pair
_ELSEWHERE = "elsewhere"  # a verdict on other edits than the two shown


class _Result(msgspec.Struct):
    id: str
    human_vote: str
    model_1: str
    model_2: str
    comparison_type: str | None = None
    model_vote: Any = None
    model_response: Any = None


class _Results(msgspec.Struct):
    results: Records[_Result | None]


def read_answers(file: Path, size: int) -> list[Answer | None]:
    """The answers about the pairs of groups of `size` edits, each pair once; None where nothing is stored."""
    results = read_json(file, _Results).results
    answers = [result and _answer(result, size, f"{file}, result {i}") for i, result in enumerate(results)]
    _check_repeated(answers, file)
    # The file may lack rows of its groups.
    pairs = comb(size, 2) * len({answer.group for answer in answers if answer})
    return answers + [None] * (pairs - len(answers))


def _answer(result: _Result, size: int, name: str) -> Answer:
    group = _group_key(result, size)
    name = f"{name}, {group}"
    shown = result.comparison_type
    if not (letters := _compared_letters(shown, size)):
        raise ValueError(f"{name}: unknown comparison_type {shown!r} of {size} edits; is --size right?")
    first, second = letters
    # The words of `judge.Vote`, in which A is the edit shown first, whatever its letter.
    human = {f"{first}>{second}": judge.FIRST, f"{second}>{first}": judge.SECOND}
    human |= {"A=B": judge.TIE} if size == 2 else {}
    if result.human_vote not in human:
        raise ValueError(
            f"{name}: human_vote about {first}vs{second} is {result.human_vote!r}; expected {', '.join(human)}"
        )
    # The same key in both orders of the edits.
    pair = group if size == 2 else f"{group} {'vs'.join(sorted(letters))}"
    vote = human[result.human_vote]
    winner = dict(zip((judge.FIRST, judge.SECOND), _edit_names(result, size), strict=True)).get(vote)
    return Answer(pair, vote, _judged(result, human, size), group, winner)


def _judged(result: _Result, verdicts: Mapping[str, str], size: int) -> str:
    vote, text = result.model_vote, result.model_response
    elsewhere = dict.fromkeys(map(">".join, permutations(LETTERS[:size], 2)), _ELSEWHERE)
    if isinstance(vote, str) and (verdict := {**elsewhere, **verdicts}.get(vote)):
        return verdict
    # EditReward's code writes this word about any text without a verdict: the text has the kind.
    return judge.lost_kind(text) if vote == "Unknown" and text is not None else judge.lost_kind(vote, text)


def _check_repeated(answers: Answers, file: Path) -> None:
    lines = []
    for key, same in indices_by_value(answer and answer.key for answer in answers).items():
        if key is not None and len(same) > 1:
            # The edits may be in the other order in a repetition, so winners are compared, not votes.
            contradictory = len({answers[i].winner for i in same}) > 1
            votes = "contradictory human votes" if contradictory else "the same human vote"
            lines.append(f"{key}: results {list_names(same)}, with {votes}")
    if lines:
        raise BadRecords(list_lines(f"{file}: {len(lines)} pairs occur more than once; keep one of each:", lines))


def evaluate_answers(answers: Answers, size: int, other_order: Answers | None = None, seed: int = 0) -> Report:
    """Accuracies of a judge on groups of `size` edits, as `genai_bench.evaluate_votes` for votes.

    A lost answer is wrong. Where nothing is stored, not even the pair, it cannot be assigned to a group: the published
    denominator is the number of groups with at least one stored answer, and the sound one the number of groups that all
    pairs make up.
    """
    orders = [answers] if other_order is None else [answers, other_order]
    pairs = comb(size, 2)
    published = _groups_right(answers, answers, pairs)
    strict = np.mean([_groups_right(order, chain(*orders), pairs) for order in orders], axis=0)
    # A failed answer does not say which group it belongs to; enough of them hide whole groups, which count as wrong.
    unseen = max(0, -(-len(answers) // pairs) - len(strict))
    failed = {name: order.count(None) for name, order in zip(("failed", "failed_swapped"), orders, strict=False)}
    rows = [
        *([Row("strict", "published", float(published.mean()), f"{len(published)} groups")] if len(published) else []),
        sound_share("strict", np.concatenate([strict, np.zeros(unseen)]), "groups", seed),
        sound_share("pairwise", judge.mean_over_orders(orders, lambda answer: answer.right), "pairs", seed),
    ]
    if other_order is not None:
        rows.append(judge.same_answer(answers, other_order, "pairs", seed))
    values = {f"{row.measure}, {row.protocol}": 100 * row.value for row in rows} | failed | {"seed": seed}
    notes = [f"{unseen} groups without a stored answer count in the sound measures only."] if unseen else []
    report = Report(f"EditReward-Bench, K = {size}: a judge's answers (%)", rows, notes, values, percent=True)
    return report.with_notes(*judge.notes_lost(orders, "pairs", "wrong in both protocols"))


def _groups_right(answers: Answers, known: Iterable[Answer | None], pairs: int) -> Bool[np.ndarray, " groups"]:
    """Whether all pairs of each group of the known answers are answered and right."""
    right: dict[str, list[bool]] = {answer.group: [] for answer in known if answer}
    for answer in filter(None, answers):
        right[answer.group].append(answer.right)
    return np.array([len(found) == pairs and all(found) for found in right.values()], bool)
