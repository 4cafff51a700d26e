"""Which of two edits people preferred, against the scores of any scorer: GenAI-Bench and AURORA pairs.

Both are published as a list of objects with `prompt`, `path_src`, `path1`, `path2`, `model1_dim1_score` and
`model2_dim1_score` (EditReward's `valid_set2_full.json`, `valid_aurora_human_ratings_pairwise.json`). The human verdict
is which of the two dim1 scores is larger; equal ones are a tie, good or bad.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rewardedit_jax.evaluation.report import Report, Row, sound_share
from rewardedit_jax.evaluation.reward_models.agreement import (
    Human,
    Margin,
    cross_validated,
    published_accuracy_with_ties,
    right_without_ties,
)
from rewardedit_jax.evaluation.reward_models.edits import OVERALL, Edit, Judge, note_transparent, score_edits
from rewardedit_jax.evaluation.reward_models.json_records import is_number, read_records
from rewardedit_jax.evaluation.reward_models.repeated import note_repeated

_PATHS = ("path_src", "path1", "path2")
_SCORES = ("model1_dim1_score", "model2_dim1_score")
_LAYOUT = "preference pairs as EditReward publishes them for GenAI-Bench and AURORA"


@dataclass(frozen=True)
class Pair:
    """Two edits of one source; `human` is 1 where the first was preferred, -1 the second, 0 neither."""

    first: Edit
    second: Edit
    human: int


def read_pairs(file: Path, images: Path) -> list[Pair]:
    """The pairs of a JSON file, whose image paths are relative to the directory `images`.

    Raises:
      FileNotFoundError, ValueError: naming the file and, where one is at fault, the item and its key.
    """
    records = read_records(file, ("prompt", *_PATHS, *_SCORES), _LAYOUT)
    return [_pair(record, f"{file}, item {i}", images) for i, record in enumerate(records)]


def _pair(record: dict[str, Any], name: str, images: Path) -> Pair:
    for key in _SCORES:
        if not is_number(record[key]):
            raise ValueError(f"{name}: {key} is {record[key]!r}, not a number.")
    for key in ("prompt", *_PATHS):
        if not isinstance(record[key], str) or not record[key]:
            raise ValueError(f"{name}: {key} is {record[key]!r}, not a text.")
    source, first, second = (images / record[key] for key in _PATHS)
    told = zip((first, second), _PATHS[1:], strict=True)
    edits = (Edit(source, edited, record["prompt"], f"{name}, {key}") for edited, key in told)
    return Pair(*edits, int(np.sign(record[_SCORES[0]] - record[_SCORES[1]])))


def evaluate_pairs(pairs: Sequence[Pair], scorer: Judge, title: str, seed: int = 0) -> Report:
    """Agreement of a scorer's overall score with what people preferred.

    Raises:
      What `edits.score_edits` raises, and ValueError for fewer than two pairs.
    """
    edits = [edit for pair in pairs for edit in (pair.first, pair.second)]
    scores = score_edits(scorer, edits)[:, OVERALL]
    report = measure_pairs(np.array([pair.human for pair in pairs]), scores[::2] - scores[1::2], title, seed)
    asked = [frozenset((pair.first, pair.second)) for pair in pairs]  # in whichever order they were shown
    repeated = note_repeated(asked, list(map(_preferred, pairs)), "pairs")
    return report.noting(*repeated).noting(*note_transparent(scorer, edits))


def _preferred(pair: Pair) -> Edit | None:
    return {1: pair.first, -1: pair.second}.get(pair.human)


def measure_pairs(human: Human, margin: Margin, title: str, seed: int = 0) -> Report:
    """As `evaluate_pairs`, of known margins: the score of the first less that of the second.

    Args:
      seed: of the folds and of the bootstrap.
    """
    three_way = cross_validated(human, margin, seed)
    rows = [
        Row("accuracy with ties", "published", published_accuracy_with_ties(human, margin), f"{len(human)} pairs"),
        sound_share("accuracy with ties", three_way, "pairs", seed),
    ]
    if human.any():
        decided = right_without_ties(human, margin)
        rows.append(Row("accuracy without ties", "published", float(decided.mean()), f"{len(decided)} pairs"))
        rows.append(sound_share("accuracy without ties", decided, "pairs", seed))
    values = {
        "accuracy_with_ties": {row.protocol: 100 * row.value for row in rows[:2]},
        "accuracy_without_ties": {row.protocol: 100 * row.value for row in rows[2:]},
        "pairs": len(human),
        "ties": int((human == 0).sum()),
        "seed": seed,
    }
    notes = ["Published: the tie threshold is tuned on these pairs. Sound: on four fifths for the other fifth."]
    return Report(f"{title}: preferred of two edits (%)", rows, notes, values, percent=True)
