"""EditReward-Bench by the stored answers of a judge that was shown two edits at a time.

The published `inference_{2,3,4}pair_hf.py` write {"results": [...]}, for each pair an object with `id`, `human_vote`,
`model_vote` and the models, or null where the judge failed. A group is right if all its pairs are; of a failed pair it
is not known to which group it belongs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rewardedit_jax.evaluation.reward_benchmarks.editreward_bench_hub import group_key
from rewardedit_jax.evaluation.reward_benchmarks.json_records import read_json
from rewardedit_jax.evaluation.reward_benchmarks.report import Report, Row, sound_share

_KEYS = ("id", "human_vote", "model_vote", "model_1", "model_2")


@dataclass(frozen=True)
class Answer:
    """One pair: the key of its group, and whether the judge says what people said, to the letter."""

    group: str
    right: bool


def read_answers(file: Path, size: int) -> list[Answer | None]:
    """The answers about groups of `size` edits, a pair each; None where the judge gave none.

    Raises:
      FileNotFoundError, ValueError: if the file is missing or of another layout, naming the item at fault.
    """
    content = read_json(file, 'the answers of a judge, {"results": [...]}')
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, list) or not results:
        raise ValueError(f'{file} should hold {{"results": [...]}}, an object or null for each pair.')
    answers = []
    for i, result in enumerate(results):
        lacking = [key for key in _KEYS if not isinstance(result, dict) or not isinstance(result.get(key), str)]
        if lacking and result is not None:
            raise ValueError(f"{file}, result {i}: no {', '.join(lacking)}.")
        told = result and Answer(
            group_key({**result, "dataset": f"{size}pair"}), result["human_vote"] == result["model_vote"]
        )
        answers.append(told)
    return answers


def evaluate_answers(answers: Sequence[Answer | None], size: int, seed: int = 0) -> Report:
    """Strict accuracy of a judge on groups of `size` edits.

    Published, groups are those of which any pair was answered. Sound, all are: as many as the pairs, answered or not,
    make up.
    """
    pairs = size * (size - 1) // 2
    of_group: dict[str, list[bool]] = {}
    for answer in filter(None, answers):
        of_group.setdefault(answer.group, []).append(answer.right)
    right = np.array([len(told) == pairs and all(told) for told in of_group.values()], bool)
    unseen = max(0, -(-len(answers) // pairs) - len(right))
    failed = sum(answer is None for answer in answers)
    rows = [
        *([Row("strict", "published", float(right.mean()), f"{len(right)} groups")] if len(right) else []),
        sound_share("strict", np.concatenate([right, np.zeros(unseen, bool)]), "groups", seed),
        sound_share("pairwise", np.array([bool(a and a.right) for a in answers]), "pairs", seed),
    ]
    notes = [f"{failed} of {len(answers)} pairs have no answer; sound measures count them as wrong."]
    values = {f"{row.measure}, {row.protocol}": 100 * row.value for row in rows} | {"failed": failed, "seed": seed}
    return Report(f"EditReward-Bench, K = {size}: a judge's answers (%)", rows, notes, values, percent=True)
