"""EditReward-Bench by the stored answers of a judge that was shown two edits at a time.

The published `inference_{2,3,4}pair_hf.py` write {"results": [...]}, for each pair an object with `id`, `human_vote`,
`model_vote`, the models and `comparison_type` (`AvsC`: A is shown first), or null where the judge failed. Votes are
`A>C` or `C>A`, of two edits also `A=B`; of the judge also `Unknown` or, about other edits than was asked, `B>C`. A
group is right if all its pairs are; of a failed pair it is not known to which group it belongs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, permutations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from rewardedit_jax.data.bad_records import BadRecords, indented
from rewardedit_jax.evaluation.report import Report, Row, sound_share
from rewardedit_jax.evaluation.reward_models.editreward_bench_hub import (
    compared_letters,
    edit_names,
    group_key,
)
from rewardedit_jax.evaluation.reward_models.editreward_bench_json import LETTERS
from rewardedit_jax.evaluation.reward_models.json_records import listed, read_json
from rewardedit_jax.evaluation.reward_models.votes import (
    FIRST,
    SECOND,
    UNKNOWN,
    Vote,
    same_answer,
    share_of_orders,
)

_KEYS = ("id", "human_vote", "model_vote", "model_1", "model_2")
_TIE = "[[A=B]]"


@dataclass(frozen=True)
class Answer(Vote):
    """One pair of the group with this key."""

    group: str


def read_answers(file: Path, size: int) -> list[Answer | None]:
    """The answers about groups of `size` edits, a pair each; None where the judge gave none.

    Raises:
      FileNotFoundError, ValueError: if the file is missing or of another layout, naming the result at fault and its
        group.
      BadRecords: listing the pairs that are there more than once, with their results.
    """
    content = read_json(file, 'the answers of a judge, {"results": [...]}')
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, list) or not results:
        raise ValueError(f'{file} should hold {{"results": [...]}}, an object or null for each pair.')
    answers = [None if r is None else _answer(r, size, f"{file}, result {i}") for i, r in enumerate(results)]
    _check_repeated(answers, results, size, file)
    return answers


def _answer(result: Any, size: int, name: str) -> Answer:
    keys = (*_KEYS, "comparison_type") if size > 2 else _KEYS
    if lacking := [key for key in keys if not isinstance(result, dict) or not isinstance(result.get(key), str)]:
        raise ValueError(f"{name}: no {', '.join(lacking)}.")
    group = group_key({**result, "dataset": f"{size}pair"})
    name, shown = f"{name}, {group}", _shown(result)
    if not (letters := compared_letters(shown, size)):
        raise ValueError(f"{name}: unknown comparison_type {shown!r} of {size} edits; is --size right?")
    first, second = letters
    human = {f"{first}>{second}": FIRST, f"{second}>{first}": SECOND} | ({"A=B": _TIE} if size == 2 else {})
    elsewhere = [">".join(pair) for pair in permutations(LETTERS[:size], 2)]
    judged = human | {label: UNKNOWN for label in (*elsewhere, UNKNOWN) if label not in human}
    for key, known in (("human_vote", human), ("model_vote", judged)):
        if result[key] not in known:
            raise ValueError(f"{name}: unknown {key} {result[key]!r} about {shown}; known are {', '.join(known)}.")
    pair = group if size == 2 else f"{group} {'vs'.join(sorted(letters))}"
    return Answer(pair, human[result["human_vote"]], judged[result["model_vote"]], group)


def _shown(result: dict[str, Any]) -> str:
    told = result.get("comparison_type")
    return "AvsB" if told is None else str(told)  # of two edits, where it may be missing, it says nothing else


def _check_repeated(answers: Sequence[Answer | None], results: Sequence[Any], size: int, file: Path) -> None:
    numbers: dict[str, list[int]] = {}
    for i, answer in enumerate(answers):
        if answer:
            numbers.setdefault(answer.key, []).append(i)
    told = []
    for key, same in numbers.items():
        winners = {_winner(answers[i], results[i], size) for i in same}
        votes = "contradictory human votes" if len(winners) > 1 else "the same human vote"
        if len(same) > 1:
            told.append(f"{key}: results {listed(same)}, with {votes}")
    if told:
        raise BadRecords(
            indented(f"{file}: {len(told)} pairs are there more than once; leave in one result of each:", told)
        )


def _winner(answer: Answer, result: dict[str, Any], size: int) -> str | None:
    """The edit that people preferred, by its model or letter; None for a tie."""
    names = edit_names(result, compared_letters(_shown(result), size), size)
    return dict(zip((FIRST, SECOND), names, strict=True)).get(answer.human)


def evaluate_answers(
    answers: Sequence[Answer | None], size: int, other_order: Sequence[Answer | None] | None = None, seed: int = 0
) -> Report:
    """Accuracies of a judge on groups of `size` edits.

    Published, groups are those of which any pair was answered. Sound, all are: as many as the pairs, answered or not,
    make up.

    Args:
      other_order: the judge's answers when the edits changed places, as `votes.turned` gives them. Then sound measures
        count each order half, and how often both answers are the same is told.
      seed: of the bootstrap.
    """
    orders = [answers] if other_order is None else [answers, other_order]
    pairs = size * (size - 1) // 2
    published = _groups_right(answers, _groups(answers), pairs)
    groups = _groups(chain(*orders))
    unseen = max(0, -(-len(answers) // pairs) - len(groups))
    strict = np.mean([_groups_right(order, groups, pairs) for order in orders], axis=0)
    failed = {name: order.count(None) for name, order in zip(("failed", "failed_swapped"), orders, strict=False)}
    rows = [
        *([Row("strict", "published", float(published.mean()), f"{len(published)} groups")] if len(published) else []),
        sound_share("strict", np.concatenate([strict, np.zeros(unseen)]), "groups", seed),
        sound_share("pairwise", share_of_orders(orders, lambda answer: answer.right), "pairs", seed),
    ]
    if other_order is not None:
        rows.append(same_answer(answers, other_order, "pairs", seed))
    told = ", with edits exchanged ".join(map(str, failed.values()))
    notes = [f"{told} of {len(answers)} pairs have no answer; sound measures count them as wrong."]
    values = {f"{row.measure}, {row.protocol}": 100 * row.value for row in rows} | failed | {"seed": seed}
    return Report(f"EditReward-Bench, K = {size}: a judge's answers (%)", rows, notes, values, percent=True)


def _groups(answers: Iterable[Answer | None]) -> list[str]:
    return list(dict.fromkeys(answer.group for answer in answers if answer))


def _groups_right(answers: Sequence[Answer | None], groups: Sequence[str], pairs: int) -> Bool[np.ndarray, " groups"]:
    """Which groups have all their pairs, and all of them right."""
    told: dict[str, list[bool]] = {group: [] for group in groups}
    for answer in filter(None, answers):
        told[answer.group].append(answer.right)
    return np.array([len(right) == pairs and all(right) for right in told.values()], bool)
