"""What a curation did, for people: counts by reason, the values of kept and dropped edits, and a sheet of examples."""

import textwrap
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from rewardedit_jax.curation.rules import shown
from rewardedit_jax.curation.selection import Reason, Selection, Settings, best_first
from rewardedit_jax.data.encoded import StoredEdits
from rewardedit_jax.evaluation.report import TextTable
from rewardedit_jax.evaluation.sheets import CAPTION_LINE, Sheet

_QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
_SIDE, _EXAMPLES, _CAPTION_LINES = 160, 4, 3
_LETTERS = 24  # that fit in a caption line of width _SIDE
_RANKED = (Reason.KEPT, Reason.TIED_AT_THRESHOLD, Reason.BELOW_THRESHOLD)  # the edits that the rule decided about


def summary(selection: Selection, settings: Settings) -> str:
    """Tables of counts and values, and the threshold of each group."""
    values, counts, total = (
        shown(settings.rule, selection.values),
        Counter(selection.reasons.tolist()),
        len(selection.reasons),
    )
    rows = [
        (reason.text, f"{counts[reason]:,}", f"{counts[reason] / total:.1%}") for reason in Reason if counts[reason]
    ]
    notes = [_threshold(selection, settings, group) for group in sorted(selection.thresholds, key=str)]
    kept, ranked = selection.reasons == Reason.KEPT, ~np.isnan(values)
    parts = {"kept": values[kept], "dropped": values[~kept & ranked]}
    spread = [(name, f"{len(x):,}", *map(_shown, np.quantile(x, _QUANTILES))) for name, x in parts.items() if len(x)]
    heading = (f"{settings.rule} of", "edits", "minimum", "5 %", "25 %", "median", "75 %", "95 %", "maximum")
    return "\n\n".join(
        [
            TextTable(("edits", "number", "share"), rows, f"{total:,} edits").to_text(),
            TextTable(heading, spread, notes=notes).to_text(),
        ]
    )


def _threshold(selection: Selection, settings: Settings, group: Hashable) -> str:
    value = float(shown(settings.rule, np.array(selection.thresholds[group])))
    count = sum(selection.groups[number] == group for number in selection.kept())
    name = "" if group is None and len(selection.wanted) == 1 else f"{'(none)' if group is None else group}: "
    return f"{name}threshold {_shown(value)}, {count:,} kept of {selection.wanted[group]:,} wanted."


def _shown(value: float) -> str:
    return f"{value:.3f}"


def draw_examples(edits: StoredEdits, selection: Selection, settings: Settings, keys: Sequence[str]) -> Image.Image:
    """A sheet with three rows of source and edited images: the best edits, those around the threshold, the worst."""
    values = shown(settings.rule, selection.values)
    order = [i for i in best_first(selection.values, keys).tolist() if selection.reasons[i] in _RANKED]
    last_kept = max(place for place, i in enumerate(order) if selection.reasons[i] == Reason.KEPT)
    middle = min(max(last_kept + 1 - _EXAMPLES // 2, 0), max(len(order) - _EXAMPLES, 0))
    rows = {"best": order[:_EXAMPLES], "threshold": order[middle : middle + _EXAMPLES], "worst": order[-_EXAMPLES:]}
    sheet = Sheet(len(rows), 2 * _EXAMPLES, _SIDE, caption=CAPTION_LINE * _CAPTION_LINES + 4)
    for row, (title, chosen) in enumerate(rows.items()):
        for column, number in enumerate(chosen):
            record, reason = edits[number], Reason(selection.reasons[number]).text
            lines = (title, *textwrap.wrap(record.instruction, _LETTERS, max_lines=_CAPTION_LINES - 1))
            sheet.picture(row, 2 * column, Image.fromarray(record.source), lines)
            result = (f"{_shown(values[number])} {reason}", keys[number][-_LETTERS:])
            sheet.picture(row, 2 * column + 1, Image.fromarray(record.edited), result)
    return sheet.image


def save_examples(
    edits: StoredEdits, selection: Selection, settings: Settings, keys: Sequence[str], file: Path
) -> None:
    """Write the sheet of `draw_examples` as a PNG file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draw_examples(edits, selection, settings, keys).save(file)
