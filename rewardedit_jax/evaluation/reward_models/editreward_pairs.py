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
from dataclasses import dataclass
from itertools import chain, combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Bool

from rewardedit_jax.data.parquet import ParquetRows
from rewardedit_jax.data.records import BadRecords, list_lines
from rewardedit_jax.evaluation.report import Report, Row, listed, sound_share
from rewardedit_jax.evaluation.reward_models import genai_bench
from rewardedit_jax.evaluation.reward_models.editreward_bench import LETTERS, Group, ReadGroups, without_faulty
from rewardedit_jax.evaluation.reward_models.edits import Edit, read_json

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


def _compared_letters(row: dict[str, Any], size: int) -> tuple[str, ...]:
    """The letters in a row's `comparison_type` such as `AvsC`; () if they are not two edits of a group of this size."""
    # Groups of two have a single pair, so a judge's answers may omit its name.
    shown = "AvsB" if row.get("comparison_type") is None else str(row["comparison_type"])
    known = LETTERS[:size]
    return tuple(shown.split("vs")) if re.fullmatch(rf"([{known}])vs(?!\1)[{known}]", shown) else ()


def _edit_names(row: dict[str, Any], size: int) -> tuple[str, ...]:
    """Names of a row's two edits that do not depend on their order: models in groups of two, letters otherwise."""
    models = row["model_1"], row["model_2"]
    return models if size == 2 and models[0] != models[1] else _compared_letters(row, size)


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
    rows_of: dict[str, list[dict[str, Any]]] = {}
    groups: list[Group] = []
    faults: dict[str, list[str]] = {}
    unique: dict[bytes, bytes] = {}
    for i in range(len(rows)):
        row = rows[i]
        if fault := _row_fault(row):
            faults.setdefault(_key_or_name(row, rows.name(i)), []).append(f"{rows.name(i)}: {fault}")
            continue
        for column in _IMAGES:  # The rows of a group repeat its images: equal ones share their memory.
            row[column] = unique.setdefault(row[column]["bytes"], row[column]["bytes"])
        rows_of.setdefault(_group_key(row), []).append(row)  # rows of a group need not be adjacent
    # Faults of all groups are collected, so that a file is repaired in one go.
    for key, members in rows_of.items():
        try:
            groups.append(_hub_group(key, members, _SIZES[members[0]["dataset"]]))
        except ValueError as fault:
            faults.setdefault(key, []).append(str(fault))
    return without_faulty(groups, faults, str(directory), skip_bad)


def _hub_group(key: str, rows: Sequence[dict[str, Any]], size: int) -> Group:
    """The group of these rows. Raises ValueError, listing the faults, if they do not make one."""
    contents, differing = _contents(rows, size)
    winner, faults = _winners(rows, size)
    names = [name for name in contents if name not in ("source", "instruction")] if size == 2 else [*LETTERS[:size]]
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


def _contents(rows: Sequence[dict[str, Any]], size: int) -> tuple[dict[str, Any], set[str]]:
    """Source image, instruction and edits by name, from the first row that has them; the names of differing ones."""
    contents: dict[str, Any] = {}
    differing: set[str] = set()
    for row in rows:
        source, *edited = (row[column] for column in _IMAGES)
        shown = {"source": source, "instruction": row["instruction"]}
        shown |= dict(zip(_edit_names(row, size), edited, strict=True))
        differing |= {name for name, value in shown.items() if contents.setdefault(name, value) != value}
    return contents, differing


def _winners(rows: Sequence[dict[str, Any]], size: int) -> tuple[dict[frozenset[str], str | None], list[str]]:
    """The name of the better edit of each pair (None for a tie), and the faults of the rankings."""
    winner: dict[frozenset[str], str | None] = {}
    faults = []
    for row in rows:
        (first, second), names = _compared_letters(row, size), _edit_names(row, size)
        rankings = {f"{first}>{second}": names[0], f"{second}>{first}": names[1]}
        # Only groups of two may be ties.
        rankings |= {f"{first}={second}": None} if size == 2 else {}
        if row["ranking"] not in rankings:
            faults.append(f"unknown ranking {row['ranking']!r} of {row['comparison_type']}")
        elif winner.setdefault(frozenset(names), better := rankings[row["ranking"]]) != better:
            faults.append(f"contradictory rankings of {row['model_1']} and {row['model_2']}")
    return winner, faults


def _order_faults(winner: dict[frozenset[str], str | None], names: Sequence[str]) -> list[str]:
    pairs = {frozenset(pair) for pair in combinations(names, 2)}
    if pairs != winner.keys():
        return [f"has {len(winner)} of the {len(pairs)} pairs of {len(names)} edits"]
    wins = list(winner.values())
    consistent = None in wins or sorted(map(wins.count, names)) == list(range(len(names)))
    return [] if consistent else ["its pairs make no order"]


def _row_fault(row: dict[str, Any]) -> str | None:
    wrong = [name for name in _TEXTS if not isinstance(row[name], str) or not row[name]]
    wrong += [name for name in _IMAGES if not isinstance(row[name], dict) or not row[name].get("bytes")]
    if wrong:
        return f"no {listed(wrong)}"
    if row["dataset"] not in _SIZES:
        return f"dataset is {row['dataset']!r}; expected {', '.join(_SIZES)}"
    if not _compared_letters(row, _SIZES[row["dataset"]]):
        return f"unknown comparison_type {row['comparison_type']!r}"
    return None


def _key_or_name(row: dict[str, Any], name: str) -> str:
    """The key of a faulty row's group, or the name of the row if it does not identify a group."""
    # Then all rows of that group are left out, not only the faulty one, which would leave a gap in its order.
    complete = all(isinstance(row[key], str) and row[key] for key in ("id", "dataset", "model_1", "model_2"))
    return _group_key(row) if complete and row["dataset"] in _SIZES else name


# Stored answers of a judge.


@dataclass(frozen=True)
class Answer(genai_bench.Vote):
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
    name = f"{name}, {group}"
    if not (letters := _compared_letters(result, size)):
        shown = str(result["comparison_type"])
        raise ValueError(f"{name}: unknown comparison_type {shown!r} of {size} edits; is --size right?")
    first, second = letters
    # The words of `genai_bench.Vote`, in which A is the edit shown first, whatever its letter.
    human = {f"{first}>{second}": genai_bench.FIRST, f"{second}>{first}": genai_bench.SECOND}
    human |= {"A=B": _TIE} if size == 2 else {}
    # A vote about other edits than the two shown is an answer, but a wrong one.
    elsewhere = [">".join(pair) for pair in permutations(LETTERS[:size], 2)]
    judged = human | {label: genai_bench.UNKNOWN for label in (*elsewhere, genai_bench.UNKNOWN) if label not in human}
    for key, known in (("human_vote", human), ("model_vote", judged)):
        if result[key] not in known:
            raise ValueError(f"{name}: {key} about {first}vs{second} is {result[key]!r}; expected {', '.join(known)}")
    # The same key in both orders of the edits.
    pair = group if size == 2 else f"{group} {'vs'.join(sorted(letters))}"
    return Answer(pair, human[result["human_vote"]], judged[result["model_vote"]], group)


def _check_repeated(answers: Sequence[Answer | None], results: Sequence[Any], size: int, file: Path) -> None:
    indices: dict[str, list[int]] = {}
    for i, answer in enumerate(answers):
        if answer:
            indices.setdefault(answer.key, []).append(i)
    lines = []
    for key, same in indices.items():
        # The edits may stand in the other order in a repetition, so winners are compared, not votes.
        winners = {_winner(answers[i], results[i], size) for i in same}
        votes = "contradictory human votes" if len(winners) > 1 else "the same human vote"
        if len(same) > 1:
            lines.append(f"{key}: results {listed(same)}, with {votes}")
    if lines:
        raise BadRecords(list_lines(f"{file}: {len(lines)} pairs occur more than once; keep one of each:", lines))


def _winner(answer: Answer, result: dict[str, Any], size: int) -> str | None:
    """The name of the edit that people prefer; None for a tie."""
    return dict(zip((genai_bench.FIRST, genai_bench.SECOND), _edit_names(result, size), strict=True)).get(answer.human)


def evaluate_answers(
    answers: Sequence[Answer | None], size: int, other_order: Sequence[Answer | None] | None = None, seed: int = 0
) -> Report:
    """Accuracies of a judge on groups of `size` edits.

    The published denominator is the number of groups with at least one answer. The sound one is the number of groups
    that all pairs make up, answered or not.

    Args:
      other_order: the judge's answers for exchanged edits, from `genai_bench.align_swapped`. Sound measures then
        average over both orders, and the report says how often the answers agree.
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
        sound_share("pairwise", genai_bench.mean_over_orders(orders, lambda answer: answer.right), "pairs", seed),
    ]
    if other_order is not None:
        rows.append(genai_bench.same_answer(answers, other_order, "pairs", seed))
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
