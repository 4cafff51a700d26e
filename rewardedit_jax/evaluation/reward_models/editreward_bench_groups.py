"""Groups of EditReward-Bench, and what is told of those that a file holds but that cannot be measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from absl import logging

from rewardedit_jax.data.bad_records import BadRecords, counted, indented
from rewardedit_jax.evaluation.reward_models.edits import Edit
from rewardedit_jax.evaluation.reward_models.json_records import listed


@dataclass(frozen=True)
class Group:
    """Edits of one source by one instruction."""

    key: str
    edits: tuple[Edit, ...]  # two, three or four
    order: tuple[int, ...] | None  # numbers of the edits, the best first; None for a tie of two


@dataclass(frozen=True)
class ReadGroups:
    """What was read, and the keys of the groups that were left out, as asked."""

    groups: list[Group]
    left_out: list[str]


def settle_groups(
    groups: Sequence[Group], faults: Mapping[str, Sequence[str]], where: str, skip_bad: bool
) -> ReadGroups:
    """The groups without faults.

    Args:
      faults: by the key of a group, or the name of a row whose group is not known.
    Raises:
      BadRecords: with all faults, a line each; with `skip_bad` they are logged.
    """
    lines = [line for told in faults.values() for line in told]
    message = indented(f"{where}: {counted(len(lines), 'bad record')}", lines)
    if faults and not skip_bad:
        raise BadRecords(f"{message}\n--skip-bad (skip_bad=True) leaves their groups out, and says so in the report.")
    if faults:
        logging.warning("%s\ntheir groups are left out, as asked.", message)
    return ReadGroups([group for group in groups if group.key not in faults], list(faults))


def join_groups(parts: Sequence[ReadGroups]) -> ReadGroups:
    """The groups of several files.

    Raises:
      ValueError: if none is left to be measured.
    """
    groups = [group for part in parts for group in part.groups]
    left_out = [key for part in parts for key in part.left_out]
    if not groups:
        why = (
            f": all {len(left_out)} have faults and were left out: {listed(left_out, between='; ')}" if left_out else ""
        )
        raise ValueError(f"no group is left to be measured{why}.")
    return ReadGroups(groups, left_out)
