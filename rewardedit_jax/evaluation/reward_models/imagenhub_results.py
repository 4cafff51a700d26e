"""The rated edits of ImagenHub themselves, for a scorer: the folder of results that ImagenHub publishes.

ImagenHub_Text-Guided_IE/
  dataset_lookup.json   uid → {"instruction": text, ...}; a uid is a file name
  input/<uid>           the sources
  <model>/<uid>         what each model made of them
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from numpy import ndarray

from rewardedit_jax.evaluation.reward_models.edits import OVERALL, Edit
from rewardedit_jax.evaluation.reward_models.imagenhub import Ratings
from rewardedit_jax.evaluation.reward_models.json_records import listed, read_json

_LOOKUP = 'uid → {"instruction": text}'
SOURCES = "input"  # the folder that is no model's
# Aspect that people rated → column of a scorer: semantic consistency is following.
_COLUMNS: Mapping[str, int] = {"overall": OVERALL, "semantic": 0, "perceptual": 1}


def rated_edits(results: Path, ratings: Ratings) -> list[Edit]:
    """Every rated edit, model after model, in the order of the ratings.

    Raises:
      FileNotFoundError, ValueError: if the lookup is missing, or rated uids have no instruction there: counted, the
        first ones listed.
    """
    file = results / "dataset_lookup.json"
    told = read_json(file, _LOOKUP)
    instructions = {uid: _instruction(told.get(uid)) for uid in ratings.uids} if isinstance(told, dict) else {}
    if lacking := [uid for uid in ratings.uids if not instructions.get(uid)]:
        many = f"{len(lacking)} of {len(ratings.uids)} rated uids"
        raise ValueError(f"{file} has no instruction for {many}: {listed(lacking)}; it should hold {_LOOKUP}.")
    return [
        Edit(results / SOURCES / uid, results / model / uid, instructions[uid], f"{model}, {uid}")
        for model in ratings.models
        for uid in ratings.uids
    ]


def _instruction(entry: Any) -> str | None:
    text = entry.get("instruction") if isinstance(entry, dict) else None
    return text if isinstance(text, str) and text.strip() else None


def scored_aspects(scores: Float[ndarray, "edits 3"], ratings: Ratings) -> dict[str, Float[ndarray, "models uids"]]:
    """What a scorer says of each aspect that people rated; `scores` are those of `rated_edits`."""
    shape = len(ratings.models), len(ratings.uids)
    return {aspect: scores[:, column].reshape(shape) for aspect, column in _COLUMNS.items()}
