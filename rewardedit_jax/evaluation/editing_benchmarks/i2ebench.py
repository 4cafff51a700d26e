"""I2EBench: stored verdicts of a judge on whether edits do what was asked (arXiv:2408.14180).

Six of its tasks are judged by a vision language model: it answers a question about each edited image, and a language
model decides whether the answer fits the expected one. `EditEval/<task>/<editor>.json` is an object number → {"image",
"prompt", "question", "gt", "final_judgement", ...}.

The numbers are places in a file, not names of items: a file that lacks an image gives the image's number to the next
one. Items are therefore identified by their image, and the items of a task are those that any of its files has.

A verdict is `yes` or `no`, in any case, with or without punctuation around it; any other text, such as a refusal, is
unreadable. An item that a file does not have is missing. Sound accuracies count both as wrong. The published script,
`eval_scripts/summary.py`, takes every text that contains "yes" for a yes, and leaves out missing items.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from jaxtyping import Bool

from rewardedit_jax.data import json_files
from rewardedit_jax.data.records import BadRecords, Instruction
from rewardedit_jax.evaluation.report import Note, Report, Row, sound_share
from rewardedit_jax.evaluation.reward_models.answers import MISSING, UNREADABLE
from rewardedit_jax.evaluation.statistics import bootstrap_interval
from rewardedit_jax.listing import MAX_NAMES, list_lines, list_names

TASKS = ("BGReplacement", "ColorAlteration", "Counting", "DirectionPerception", "ObjectRemoval", "Replacement")
YES, NO = "yes", "no"
ALL = "all tasks"
_VERDICT = re.compile(r"[\W_]*(yes|no)[\W_]*", re.IGNORECASE)


class _Record(msgspec.Struct):
    image: str
    prompt: Instruction
    question: str
    gt: str
    final_judgement: str | None = None  # absent before the script's second stage

    @property
    def asked(self) -> tuple[str, str, str]:
        return self.prompt, self.question, self.gt


@dataclass(frozen=True)
class TaskVerdicts:
    """The stored verdicts of one task."""

    task: str
    images: tuple[str, ...]  # of the items
    texts: Mapping[str, tuple[str | None, ...]]  # editor → text of the verdict on each item; None: not in the file

    def verdicts(self, editor: str) -> list[str]:
        """YES, NO, UNREADABLE or MISSING for each item."""
        return [read_verdict(text) for text in self.texts[editor]]


def read_verdict(text: str | None) -> str:
    """YES, NO, UNREADABLE, or MISSING for None."""
    if text is None:
        return MISSING
    # The whole text: a sentence that begins with "No" may say something else.
    found = _VERDICT.fullmatch(text)
    return found[1].lower() if found else UNREADABLE


# Reading.


def read_verdicts(directory: Path) -> list[TaskVerdicts]:
    """The verdicts in a directory `<task>/<editor>.json`, with all editors in every task.

    An editor without a file has no verdict in that task. Other folders and files are not read.
    Raises:
      FileNotFoundError: no task has a file.
      BadRecords: a file is not of the layout, has an image twice, or asks something else than the other files.
    """
    files = {task: sorted((directory / task).glob("[!.]*.json")) for task in TASKS}
    editors = sorted({file.stem for file in chain(*files.values())})
    if not editors:
        raise FileNotFoundError(f"{directory} has no verdicts: expected <task>/<editor>.json, task: {', '.join(TASKS)}")
    return [_read_task(task, of_task, editors) for task, of_task in files.items() if of_task]


def _read_task(task: str, files: Sequence[Path], editors: Sequence[str]) -> TaskVerdicts:
    by_editor = {file.stem: _read_file(file) for file in files}
    asked: dict[str, tuple[str, str, str]] = {}
    for editor, records in by_editor.items():
        # Files of two versions of the benchmark have the same names of images.
        other = [image for image, record in records.items() if asked.setdefault(image, record.asked) != record.asked]
        if other:
            raise BadRecords(
                f"{task}/{editor}.json: {len(other)} items differ in prompt, question or gt from the other files of "
                f"the task: {list_names(other)}. Is it of another version of the benchmark?"
            )
    images = tuple(sorted(asked))
    texts = {editor: tuple(_text(by_editor.get(editor, {}).get(image)) for image in images) for editor in editors}
    return TaskVerdicts(task, images, texts)


def _text(record: _Record | None) -> str | None:
    return None if record is None else record.final_judgement or ""


def _read_file(file: Path) -> dict[str, _Record]:
    """The records of a file by image."""
    content = json_files.read_json(file, dict[str, Any])
    entries, faults = json_files.validate(content.items(), _Record)
    if faults:
        # None is left out: that would change the denominator.
        raise BadRecords(list_lines(f"{file}: {len(faults)} of {len(content)} records cannot be read:", faults))
    count = Counter(entry.value.image for entry in entries)
    if repeated := [image for image, n in count.items() if n > 1]:
        raise BadRecords(f"{file}: {len(repeated)} images occur more than once, keep one: {list_names(repeated)}")
    return {entry.value.image: entry.value for entry in entries}


# Evaluation.


class _Items(NamedTuple):
    """The verdicts of one editor on the items of one task or of all."""

    verdicts: Sequence[str]
    texts: Sequence[str | None]

    @property
    def right(self) -> Bool[np.ndarray, " n"]:
        return np.array([verdict == YES for verdict in self.verdicts], bool)

    @property
    def stored(self) -> Bool[np.ndarray, " n"]:
        return np.array([verdict != MISSING for verdict in self.verdicts], bool)

    @property
    def readable(self) -> Bool[np.ndarray, " n"]:
        return np.array([verdict in (YES, NO) for verdict in self.verdicts], bool)

    @property
    def published(self) -> float:
        """The accuracy of the benchmark's script; NaN without a stored verdict."""
        stored = [text for text in self.texts if text is not None]
        return float(np.mean(["yes" in text.lower() for text in stored])) if stored else float("nan")


def evaluate_verdicts(tasks: Sequence[TaskVerdicts], seed: int = 0) -> Report:
    """Accuracies of every editor, over all tasks and per task, and differences of editors that are next in rank.

    The entries of the JSON file have the counts, both accuracies with intervals, and the differences of all editors.
    """
    editors = list(tasks[0].texts)
    items = {ALL: {editor: _all_items(tasks, editor) for editor in editors}}
    items |= {task.task: {e: _Items(task.verdicts(e), task.texts[e]) for e in editors} for task in tasks}
    # Best first: neighbours are the comparisons that decide a ranking.
    ranked = sorted(editors, key=lambda editor: -items[ALL][editor].right.mean())
    rows, values = [], {}
    for part, of_part in items.items():
        values[part] = {}
        for editor in ranked:
            more, values[part][editor] = _accuracies(part, editor, of_part[editor], seed)
            rows += more
    differences = [_difference(part, a, b, of, seed) for part, of in items.items() for a, b in combinations(ranked, 2)]
    neighbours = {*pairwise(ranked)}
    rows += [_difference_row(d) for d in differences if d["part"] == ALL and (d["first"], d["second"]) in neighbours]
    title = "I2EBench: edits that do what was asked, by a judge's stored verdicts (%)"
    report = Report(title, rows, [], {"parts": values, "differences": differences, "seed": seed}, percent=True)
    return report.with_notes(_note_unreadable(tasks), _note_missing(tasks), _note_protocols())


def _all_items(tasks: Sequence[TaskVerdicts], editor: str) -> _Items:
    verdicts = [task.verdicts(editor) for task in tasks]
    return _Items([*chain(*verdicts)], [*chain(*(task.texts[editor] for task in tasks))])


def _accuracies(part: str, editor: str, items: _Items, seed: int) -> tuple[list[Row], dict[str, Any]]:
    """The rows of one editor, and its entries in the JSON file."""
    count = Counter(items.verdicts)
    fixed = sound_share(f"{part}, {editor}", items.right, "items", seed)
    answered = sound_share("", items.right[items.stored], "verdicts", seed)
    values = {
        **{verdict: count[verdict] for verdict in (YES, NO, UNREADABLE, MISSING)},
        "answered_items": int(items.stored.sum()),
        "items_of_task": len(items.verdicts),
        "accuracy_over_answered": answered.value,
        "interval_over_answered": answered.interval,
        "accuracy_fixed_denominator": fixed.value,
        "interval_fixed_denominator": fixed.interval,
        "accuracy_published": items.published,
    }
    # Published figures are of one task. One that equals the sound figure would double the table.
    published = Row(fixed.measure, "published", items.published, answered.of)
    return ([] if part == ALL or items.published == fixed.value else [published]) + [fixed], values


def _difference(part: str, first: str, second: str, items: Mapping[str, _Items], seed: int) -> dict[str, Any]:
    """Accuracy of one editor minus that of another, on the items with a readable verdict on both."""
    both = items[first].readable & items[second].readable
    # Differences of the same items: how hard an item is cancels.
    margin = items[first].right[both].astype(float) - items[second].right[both]
    known = len(margin) > 0
    return {
        "part": part,
        "first": first,
        "second": second,
        "items": len(margin),
        "difference": float(margin.mean()) if known else None,
        "interval": bootstrap_interval(lambda drawn: margin[drawn].mean(), len(margin), seed) if known else None,
    }


def _difference_row(found: Mapping[str, Any]) -> Row:
    value = float("nan") if found["difference"] is None else found["difference"]
    return Row(f"{found['first']} − {found['second']}", "sound", value, f"{found['items']} items", found["interval"])


# Notes.


def _note_unreadable(tasks: Sequence[TaskVerdicts]) -> Note:
    return _note(tasks, UNREADABLE, "Unreadable verdicts, wrong in sound accuracies and left out of differences")


def _note_missing(tasks: Sequence[TaskVerdicts]) -> Note:
    return _note(tasks, MISSING, "Items that another editor's file has, wrong in sound accuracies")


def _note(tasks: Sequence[TaskVerdicts], kind: str, what: str) -> Note:
    """Note about the verdicts of a kind, by task and editor."""
    names = [
        f"{task.task}/{editor} {image}"
        for task in tasks
        for editor in task.texts
        for image, verdict in zip(task.images, task.verdicts(editor), strict=True)
        if verdict == kind
    ]
    values = {kind: {"count": len(names), "first": names[:MAX_NAMES]}}
    return [f"{what}: {len(names)} ({list_names(names)})."] if names else [], values


def _note_protocols() -> Note:
    return [
        "Sound: over the items that any file of a task has. Published: over the items of the editor's own file, where "
        "every verdict that contains 'yes' is a yes; listed where it differs.",
        "Differences: editors that are next in rank, on the items with a readable verdict on both.",
    ], {}
