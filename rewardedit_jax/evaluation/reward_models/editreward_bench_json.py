"""EditReward-Bench as its evaluation code reads it: `EditReward_Bench_{2,3,4}pair.json`, a group per object.

An object has `prompt`, `path_src`, `paths_generated` (two to four) and `human_vote` with its `ranking`: of two edits
`A>B`, `B>A` (or `A<B`), `A=B=Good`, `A=B=Bad`; of more, letters from the best to the worst, `C>A>B`.
"""

from pathlib import Path
from typing import Any

from absl import logging

from rewardedit_jax.evaluation.reward_models.editreward_bench_groups import Group, ReadGroups, settle_groups
from rewardedit_jax.evaluation.reward_models.edits import Edit
from rewardedit_jax.evaluation.reward_models.json_records import listed, read_records

LETTERS = "ABCD"
_OF_TWO = {"A>B": (0, 1), "B>A": (1, 0), "A<B": (1, 0), "A=B=Good": None, "A=B=Bad": None}
_KEYS = ("prompt", "path_src", "paths_generated", "human_vote")


def read_groups(file: Path, images: Path, *, skip_bad: bool = False) -> ReadGroups:
    """The groups of one file, whose image paths are relative to the directory `images`.

    Repetitions with the same ranking count once, and are logged.

    Raises:
      FileNotFoundError, ValueError: if the file is missing or of another layout.
      BadRecords: with all faults, by item: unknown rankings, and groups with contradictory rankings. With `skip_bad`
        they are left out, and told of.
    """
    groups: list[Group] = []
    faults: dict[str, list[str]] = {}
    for i, record in enumerate(read_records(file, _KEYS, f"groups of EditReward-Bench with {', '.join(_KEYS)}")):
        key = f"{file.stem}, item {i}"
        try:
            groups.append(_group(record, key, images))
        except ValueError as fault:
            faults[key] = [str(fault)]
    same: dict[Any, list[Group]] = {}
    for group in groups:
        same.setdefault(frozenset(group.edits), []).append(group)
    for found in same.values():
        if len({_best_first(group) for group in found}) > 1:
            faults[found[0].key] = [f"{listed(g.key for g in found)}: one group with contradictory rankings"]
        elif len(found) > 1:
            logging.warning("%s: one group with the same ranking; it counts once.", listed(g.key for g in found))
    return settle_groups([found[0] for found in same.values()], faults, str(file), skip_bad)


def _best_first(group: Group) -> tuple[Edit, ...] | None:
    return None if group.order is None else tuple(group.edits[i] for i in group.order)


def _group(record: dict[str, Any], name: str, images: Path) -> Group:
    prompt, path, paths, vote = (record[key] for key in _KEYS)
    if not isinstance(paths, list) or not 2 <= len(paths) <= len(LETTERS):
        raise ValueError(f"{name}: paths_generated is {paths!r}, not a list of 2 to 4 paths")
    if not all(isinstance(text, str) and text for text in (prompt, path, *paths)):
        raise ValueError(f"{name}: prompt, path_src or one of paths_generated is empty or no text")
    order = _order(vote.get("ranking") if isinstance(vote, dict) else None, len(paths), name)
    edits = [
        Edit(images / path, images / edited, prompt, f"{name}, edit {letter}")
        for letter, edited in zip(LETTERS, paths, strict=False)
    ]
    return Group(name, tuple(edits), order)


def _order(ranking: Any, size: int, name: str) -> tuple[int, ...] | None:
    if size == 2 and ranking in _OF_TWO:
        return _OF_TWO[ranking]
    letters = ranking.split(">") if isinstance(ranking, str) else []
    if size > 2 and sorted(letters) == list(LETTERS[:size]):
        return tuple(map(LETTERS.index, letters))
    # Among them "A=B", the hub's word for a tie: the published code takes it for "A>B" here, so it is not let pass.
    known = ", ".join(_OF_TWO) if size == 2 else f"{'>'.join(LETTERS[:size])} in any order"
    raise ValueError(f"{name}: unknown ranking {ranking!r} of {size} edits; known are {known}")
