"""MagicBrush: sessions of one to three edits of one photograph (Zhang et al., NeurIPS 2023, arXiv:2306.10012).

Single turn: each turn is edited from the photograph, or the target of the turn before, that the data set has. Multi
turn: each turn is edited from what the editor itself has made of the turn before, and the last turn counts. The
published figures are distances and similarities to the target images; a judge answers Real-Edit's three questions
besides.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rewardedit_jax.data.encoded import AskedEdits, RequestLabel
from rewardedit_jax.data.magicbrush import SESSIONS, MagicBrush, MagicBrushFolder
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.evaluation.editing_benchmarks.benchmark import (
    LEFT_OUT,
    Benchmark,
    Item,
    Requests,
    open_edits_of,
    requests_of,
)
from rewardedit_jax.evaluation.editing_benchmarks.real_edit import QUESTIONS, RUBRICS
from rewardedit_jax.listing import count_noun
from rewardedit_jax.reward import PERSPECTIVES

FINAL = "final turn"
METRICS = ("l1", "l2", "clip_i", "dino", "clip_t")  # the published figures
_LAYOUT = "magicbrush"  # as launch/prepare_data.py names it


def open_magicbrush(path: Path, multi_turn: bool) -> Requests:
    """The turns of the test set (a folder), of the development set (parquet), or of a prepared data set."""
    stored, labels, missing = open_edits_of(path, _LAYOUT, _published)
    if multi_turn and missing:
        # Nobody knows which turns are missing, so that a session might end, or begin, with another turn.
        lost = count_noun(len(missing), "turn")
        raise BadRecords(f"{path} has left out {lost}: multi-turn editing needs whole sessions, as published.")
    places = {_place(label): label.key for label in labels if label.edit_type != LEFT_OUT}
    last = dict(sorted(places))  # session → its last turn
    items = [_item(label, number, places, last, multi_turn) for number, label in enumerate(labels)]
    return requests_of(stored, items, missing)


def _published(path: Path) -> AskedEdits:
    # The hub has no test set: the development set is what can be measured without the zip file.
    return MagicBrushFolder(path) if (path / SESSIONS).is_file() else MagicBrush(path, split="dev")


def _place(label: RequestLabel) -> tuple[str, int]:
    return str(label.extra["session"]), int(label.extra["turn"])


def _item(
    label: RequestLabel, number: int, places: dict[tuple[str, int], str], last: dict[str, int], multi_turn: bool
) -> Item:
    if label.edit_type == LEFT_OUT:
        return Item(label, number, f"{label.key}.png", label.key, is_paired=False)
    session, turn = _place(label)
    label = replace(label, edit_type=f"turn {turn}")
    # As the published results are named: "inde" where the source is that of the data set, "iter" in a sequence.
    name = f"{session}_1" if turn == 1 else f"{session}_{'iter' if multi_turn else 'inde'}_{turn}"
    # A turn that the list lacks has no edit either, so that the next one fails.
    previous = places.get((session, turn - 1), f"{session}/{turn - 1}") if multi_turn and turn > 1 else None
    return Item(label, number, f"{session}/{name}.png", session, previous, not multi_turn or turn == last[session])


def _sets(item: Item) -> Sequence[str]:
    # `is_paired` of a multi-turn item: it is the last of its session.
    return (FINAL,) if item.is_paired else ()


def _benchmark(name: str, title: str, multi_turn: bool) -> Benchmark:
    return Benchmark(
        name,
        title,
        version=1,
        asked=QUESTIONS,
        rubrics=RUBRICS,
        open=partial(open_magicbrush, multi_turn=multi_turn),
        measures=PERSPECTIVES,
        metrics=METRICS,
        sets=_sets if multi_turn else lambda item: (),
    )


MAGICBRUSH = _benchmark("magicbrush", "MagicBrush, single turn: each turn from the data set's image", False)
MAGICBRUSH_MULTI_TURN = _benchmark(
    "magicbrush_multi_turn", "MagicBrush, multi turn: each turn from the editor's own image", True
)
