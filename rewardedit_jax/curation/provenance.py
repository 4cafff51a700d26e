"""The record of a curation: a line for every edit of the data, and the settings and fingerprints it follows from."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rewardedit_jax.curation.records import Records
from rewardedit_jax.curation.rules import shown
from rewardedit_jax.curation.scores import Scores
from rewardedit_jax.curation.selection import Reason, Selection, Settings
from rewardedit_jax.data.json_files import to_line
from rewardedit_jax.data.output_files import atomic_write

FILE, SETTINGS_FILE = "provenance.jsonl", "curation.json"
_DIGITS = 6  # of numbers in a line


def check_settings(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the folder's `curation.json` holds. Raises ValueError if it has other values of these settings."""
    file = folder / SETTINGS_FILE
    stored = msgspec.json.decode(file.read_bytes()) if file.is_file() else {}
    if differing := [name for name, value in settings.items() if stored.get(name, value) != value]:
        changes = "; ".join(f"{name}: {stored[name]!r} there, {settings[name]!r} now" for name in differing)
        raise ValueError(f"{folder} was begun with other settings ({changes}): give another --out.")
    return stored


def keep_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Add settings to the folder's `curation.json`; raises ValueError as `check_settings`."""
    stored = check_settings(folder, settings)
    if settings.keys() - stored.keys():
        with atomic_write(folder / SETTINGS_FILE) as unfinished:
            unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(stored | settings)) + b"\n")


@dataclass(frozen=True)
class Evidence:
    """All that was known when the edits were selected."""

    records: Records
    scores: Scores
    judged: np.ndarray  # float[n, 3], 0..5; NaN: not judged
    not_judged: Mapping[int, str]  # number of an edit → why it has no label
    faults: Sequence[str] = ()  # entries of a list that are no edits, "FILE: line 3: ..."

    def reason(self, number: int, reason: Reason) -> str | None:
        """The sentence about an edit that could not be read, scored or judged."""
        by_reason = {
            Reason.UNREADABLE: self.records.failures,
            Reason.NOT_SCORED: self.scores.failures,
            Reason.NOT_JUDGED: self.not_judged,
        }
        return by_reason[reason].get(number) if reason in by_reason else None


def write_provenance(file: Path, selection: Selection, evidence: Evidence, settings: Settings) -> None:
    """Write a line for every edit, in the order of the data, then for entries that are none; whole or absent."""
    with atomic_write(file) as unfinished, unfinished.open("wb") as out:
        out.writelines(map(to_line, provenance(selection, evidence, settings)))
        # Entries without a key: the place in the list is their name.
        out.writelines(to_line(_no_edit(fault)) for fault in evidence.faults)


def _no_edit(fault: str) -> dict[str, Any]:
    place = re.search(r": ((line|entry) \d+): ", fault)
    return {"key": place[1] if place else fault, "kept": False, "reason": Reason.UNREADABLE.text, "detail": fault}


def provenance(selection: Selection, evidence: Evidence, settings: Settings) -> Iterator[dict[str, Any]]:
    """For every edit: its key, whether it is kept, why, and the numbers that this follows from.

    `value` and `threshold` are those of the rule; for the rule "improvement", probabilities.
    """
    records, gaussians = evidence.records, evidence.scores.gaussians
    keys, values = records.edits.keys, shown(settings.rule, selection.values)
    thresholds = {group: float(shown(settings.rule, np.array(x))) for group, x in selection.thresholds.items()}
    for number, reason in enumerate(map(Reason, selection.reasons.tolist())):
        group, twin = selection.groups[number], selection.duplicate_of[number]
        is_read = not records.edits.unreadable[number]
        line = {
            "key": keys[number],
            "kept": reason is Reason.KEPT,
            "reason": reason.text,
            "detail": evidence.reason(number, reason),
            "duplicate_of": keys[twin] if twin >= 0 else None,
            "quota": group,
            "value": _number(values[number]),
            "threshold": _number(thresholds.get(group, np.nan)),
            "content": records.content[number].tobytes().hex() if is_read else None,
            "difference": _number(records.edits.difference[number]) if is_read else None,
            "judged": _numbers(evidence.judged[number]),
            **{name: _numbers(gaussian[number]) for name, gaussian in gaussians.items()},
        }
        yield {name: value for name, value in line.items() if value is not None}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), _DIGITS)


def _numbers(values: np.ndarray) -> list[float] | None:
    return None if np.isnan(values).any() else [_number(value) for value in values]
