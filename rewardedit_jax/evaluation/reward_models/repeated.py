"""Items that people judged more than once: told of in the report, and counted as often as they stand."""

from collections.abc import Hashable, Sequence
from typing import Any

from rewardedit_jax.evaluation.reward_models.json_records import MOST_LISTED, listed


def note_repeated(
    asked: Sequence[Hashable], verdicts: Sequence[Hashable], what: str
) -> tuple[list[str], dict[str, Any]]:
    """Notes and values of a report: which items are about the same, with one verdict and with several.

    Args:
      asked: what people judged, item by item.
      verdicts: what they said of it.
      what: what is counted: "pairs", "edits".
    """
    items: dict[Hashable, list[int]] = {}
    for i, about in enumerate(asked):
        items.setdefault(about, []).append(i)
    told: dict[str, list[list[int]]] = {"contradictory": [], "repeated": []}
    for same in items.values():
        if len(same) > 1:
            told["contradictory" if len({verdicts[i] for i in same}) > 1 else "repeated"].append(same)
    values = {kind: {what: len(found), "first": found[:MOST_LISTED]} for kind, found in told.items()}
    notes = [f"{kind} {what}, {len(found)}: items {_numbers(found)}." for kind, found in told.items() if found]
    if notes:
        # They may be the votes of two people, so that none is worth less than another.
        notes.append(
            "Repeated: judged more than once, always alike; contradictory: not alike, so that nobody can be right "
            "on all. Published and sound count every item as it stands."
        )
    return notes, values


def _numbers(found: Sequence[Sequence[int]]) -> str:
    return listed((" = ".join(map(str, same)) for same in found), between="; ")
