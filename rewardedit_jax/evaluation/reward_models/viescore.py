"""A judge's answers about the edits of ImagenHub, as VIEScore stores them (arXiv:2312.14867).

<model>/SC.json and PQ.json are objects uid → {"score": one or two numbers 0..10, "reasoning": text}. Where the judge's
text has no score, VIEScore's code stores no entry, or (--guess_if_cannot_parse) a random score and
"guess_if_cannot_parse | " before the text.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from rewardedit_jax.data.json_files import read_json
from rewardedit_jax.evaluation.report import Note
from rewardedit_jax.evaluation.reward_models.answers import UNREADABLE, lost_kind, note_lost
from rewardedit_jax.evaluation.reward_models.imagenhub import Ratings
from rewardedit_jax.listing import MAX_NAMES, list_names

_PARTS = ("SC", "PQ")
_BEST = 10
_GUESS = "guess_if_cannot_parse |"

Scores = Float[np.ndarray, "models uids 2"]  # SC, PQ: 0..10; NaN: none


class Answers(NamedTuple):
    """A judge's scores of the rated edits."""

    published: Scores  # as VIEScore's code reads them
    sound: Scores  # those that are answers
    lost: dict[str, str]  # name of each other answer → its kind
    not_rated: list[str]  # names of answers about edits that nobody rated


def read_answers(directory: Path, ratings: Ratings) -> Answers:
    """The answers of a directory. Lost answers are no errors; a file or directory that is missing is one."""
    if missing := [model for model in ratings.models if not (directory / model).is_dir()]:
        raise FileNotFoundError(
            f"{directory} has no directory for {list_names(missing)}; expected <model>/{{SC,PQ}}.json"
        )
    shape = len(ratings.models), len(ratings.uids), len(_PARTS)
    answers = Answers(np.full(shape, np.nan), np.full(shape, np.nan), {}, [])
    for m, model in enumerate(ratings.models):
        for p, part in enumerate(_PARTS):
            stored = read_json(directory / model / f"{part}.json", dict[str, Any])
            answers.not_rated.extend(f"{model}/{part} {uid}" for uid in stored if uid not in ratings.uids)
            for u, uid in enumerate(ratings.uids):
                answers.published[m, u, p], kind = _read_answer(stored.get(uid))
                if kind:
                    answers.lost[f"{model}/{part} {uid}"] = kind
                else:
                    answers.sound[m, u, p] = answers.published[m, u, p]
    return answers


def _read_answer(stored: Any) -> tuple[float, str]:
    """The score as VIEScore's code reads it (NaN: none), and the kind of a lost answer ("": it is not lost)."""
    entry = stored if isinstance(stored, dict) else {"reasoning": stored}
    score, text = entry.get("score"), entry.get("reasoning")
    numbers = score if isinstance(score, list) else [score]
    if not numbers or not all(map(_is_finite, numbers)):
        return math.nan, lost_kind(score, text)
    # VIEScore takes the minimum of any number of sub-scores, and clips it.
    value = float(min(max(min(numbers), 0), _BEST))
    if isinstance(text, str) and text.startswith(_GUESS):
        return value, lost_kind(text.removeprefix(_GUESS))
    return value, "" if len(numbers) <= 2 and max(map(abs, numbers)) <= _BEST and min(numbers) >= 0 else UNREADABLE


def _is_finite(value: Any) -> bool:
    # Not math.isfinite, which overflows on whole numbers above 1e308.
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def note_answers(answers: Answers) -> list[Note]:
    """Notes about lost answers, and about answers on edits that nobody rated."""
    used = int((np.isfinite(answers.published) & np.isnan(answers.sound)).sum())
    counted = "which have the mean rank in sound measures and are left out of published ones"
    if used:
        counted += f" ({used} with a random or clipped score of VIEScore's code, which published measures use)"
    notes = [note_lost(answers.lost, answers.sound.size, "scores", counted)]
    if found := answers.not_rated:
        values = {"not_rated": {"count": len(found), "first": found[:MAX_NAMES]}}
        notes.append(([f"Not evaluated, as nobody rated these edits: {list_names(found)}."], values))
    return notes
