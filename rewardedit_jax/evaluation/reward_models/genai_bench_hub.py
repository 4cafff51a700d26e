"""GenAI-Bench as the hub has it: parquet files with a vote on two edits in each row, and their images.

TIGER-Lab/GenAI-Bench, configuration image_edition, 919 rows. To a scorer good ties and bad ones are ties alike.
"""

from pathlib import Path
from typing import Any

from rewardedit_jax.data.bad_records import BadRecords, indented
from rewardedit_jax.data.parquet_rows import ParquetRows
from rewardedit_jax.evaluation.reward_models.edits import Edit
from rewardedit_jax.evaluation.reward_models.pairs import Pair

_IMAGES = ("source_image", "left_output_image", "right_output_image")
_HUMAN = {"leftvote": 1, "rightvote": -1, "tievote": 0, "bothbad_vote": 0}
_EXPECTED = f"""expected:
  <directory>/
    *.parquet   columns instruct_prompt, vote_type ({" | ".join(_HUMAN)}),
                {", ".join(_IMAGES)} (each {{bytes, path}})
Hugging Face hub: TIGER-Lab/GenAI-Bench, folder image_edition."""


def read_hub_pairs(directory: Path) -> list[Pair]:
    """The pairs of all parquet files under a directory; their images are held in memory, encoded.

    Raises:
      FileNotFoundError: if there is no parquet file.
      BadRecords: for a file of another layout, or listing every row with an unknown vote, no instruction or no image:
        none is left out of the denominator.
    """
    rows = ParquetRows(directory, ("instruct_prompt", "vote_type", *_IMAGES), _EXPECTED)
    found = [rows[i] for i in range(len(rows))]
    if faults := [f"{rows.name(i)}: {fault}" for i, row in enumerate(found) if (fault := _fault(row))]:
        raise BadRecords(indented(f"{directory}: {len(faults)} of {len(found)} rows cannot be measured:", faults))
    return [_pair(row, rows.name(i)) for i, row in enumerate(found)]


def _fault(row: dict[str, Any]) -> str | None:
    if row["vote_type"] not in _HUMAN:
        return f"unknown vote_type {row['vote_type']!r}; known are {', '.join(_HUMAN)}"
    if not isinstance(row["instruct_prompt"], str) or not row["instruct_prompt"].strip():
        return "no instruct_prompt"
    lacking = [name for name in _IMAGES if not (row[name] or {}).get("bytes")]
    return f"no image in {', '.join(lacking)}" if lacking else None


def _pair(row: dict[str, Any], name: str) -> Pair:
    source, *edited = _IMAGES
    edits = (Edit(row[source]["bytes"], row[e]["bytes"], row["instruct_prompt"], f"{name}, {e}") for e in edited)
    return Pair(*edits, _HUMAN[row["vote_type"]])
