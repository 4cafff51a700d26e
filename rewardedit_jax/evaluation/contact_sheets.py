"""Contact sheets: what several systems made of the same items, side by side, with their scores.

`SheetItem` and `Cell` are the data of both forms. `write_sheet` draws a picture for a paper or a README, of few items
that a stated rule chooses; `contact_page.write_page` writes a web page of all items.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from rewardedit_jax.data.images import ImageError, decode_image, read_image
from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.evaluation.sheets import CAPTION_LINE, Sheet
from rewardedit_jax.evaluation.statistics import indices_by_value
from rewardedit_jax.listing import count_noun, list_names

_SIDE = 192  # pixels, of the pictures of a sheet
_TEXT_WIDTH = 168  # pixels, of the column of instructions
_HEADING_LETTERS, _HEADING_LINES = 20, 2  # that fit above a picture
_CAPTION_LETTERS = 30  # that fit below a picture
_TEXT_LETTERS = 140  # of an instruction that fit beside a picture
_FOOTER_LETTER = 8  # pixels, the width of a letter and its share of the margins
_EMPTY, _EMPTY_INK = (242, 242, 244), (120, 60, 60)
_NO_REASON = "no picture, and no reason was recorded"


@dataclass(frozen=True)
class Cell:
    """What one system made of one item."""

    picture: Path | None = None  # None: it made none
    scores: Mapping[str, float | None] = field(default_factory=dict)  # measure → score; None where the judge failed
    failure: str = ""  # why there is no picture or no score


@dataclass(frozen=True)
class SheetItem:
    """One item of a benchmark and what each system made of it."""

    key: str  # unique
    edit_type: str
    instruction: str
    source: Path | bytes  # a file, or an encoded image
    cells: Mapping[str, Cell]  # system → cell, in the order of the columns


def system_names(items: Sequence[SheetItem]) -> list[str]:
    """The systems of the items, in the order of the columns. Raises ValueError if there are none or keys repeat."""
    if repeated := [key for key, same in indices_by_value(item.key for item in items).items() if len(same) > 1]:
        raise ValueError(f"{count_noun(len(repeated), 'key')} of items occur more than once: {list_names(repeated)}")
    if not (systems := list(dict.fromkeys(system for item in items for system in item.cells))):
        raise ValueError(f"a contact sheet needs at least one system; {count_noun(len(items), 'item')} have none")
    return systems


def measure_names(items: Sequence[SheetItem]) -> list[str]:
    """The measures of the items, in the order in which they occur."""
    return list(dict.fromkeys(name for item in items for cell in item.cells.values() for name in cell.scores))


def cell_of(item: SheetItem, system: str) -> Cell:
    """The cell of a system; one with a reason where the item has none."""
    return item.cells.get(system, Cell(failure="this system has no result for this item"))


def score_of(cell: Cell, measure: str) -> float | None:
    """The score, or None where there is none or it is not a finite number."""
    score = cell.scores.get(measure)
    # float: JSON does not know the numbers of NumPy.
    return float(score) if score is not None and math.isfinite(score) else None


def format_score(score: float | None) -> str:
    return "failed" if score is None else f"{score:.4g}"


def read_picture(picture: Path | bytes | None, failure: str, name: str) -> Image.Image | str:
    """The picture as upright RGB, or why there is none."""
    if picture is None:
        return failure or _NO_REASON
    try:
        return decode_image(picture, name) if isinstance(picture, bytes) else read_image(picture)
    except ImageError as error:
        # A sheet shows what there is: an unreadable picture is a result too.
        return str(error)


# The sheet as a picture.


def write_sheet(items: Sequence[SheetItem], file: Path, title: str) -> None:
    """Writes a PNG with a row for each edit type; its footer says which item is shown, and by which rule."""
    systems, measures = system_names(items), measure_names(items)
    shown = choose_items(items, systems[0], measures)
    headings = [_cut(name, _HEADING_LETTERS, _HEADING_LINES) for name in ("source", *systems)]
    lines = max(heading.count("\n") for heading in headings) + 1
    spaces = {"caption": CAPTION_LINE * (len(measures) + 1), "heading": 12 + 22 * lines, "footer": 5 * CAPTION_LINE}
    sheet = Sheet(len(shown), len(headings), _SIDE, gap=12, text_width=_TEXT_WIDTH, **spaces)
    for column, heading in enumerate(headings):
        sheet.heading(column, heading)
    sheet.text_heading("instruction")
    for row, item in enumerate(shown):
        _draw_row(sheet, row, item, systems, measures)
    rule = f"of each edit type the item with the median mean score of {systems[0]}, where failed items rank lowest"
    about = f"{len(shown)} of {len(items)} items: {rule}."
    footer = (title, about, f"Shown: {list_names(item.key for item in shown)}.")
    letters = sheet.image.width // _FOOTER_LETTER
    sheet.footer("\n".join(_cut(line, letters, 2) for line in footer))
    with atomic_write(file) as unfinished:
        sheet.image.save(unfinished, "PNG")


def choose_items(items: Sequence[SheetItem], system: str, measures: Sequence[str]) -> list[SheetItem]:
    """Of each edit type, the item with the median mean score of a system; failed items rank lowest.

    Of an even number it is the lower one in the middle; of equal ones, the earlier is lower.
    """

    def mean(item: SheetItem) -> float:
        scores = [score_of(cell_of(item, system), measure) for measure in measures]
        return -math.inf if None in scores else sum(scores) / max(1, len(scores))

    of_types = indices_by_value(item.edit_type for item in items).values()
    ranked = (sorted((items[i] for i in of_type), key=mean) for of_type in of_types)
    return [of_type[(len(of_type) - 1) // 2] for of_type in ranked]


def _draw_row(sheet: Sheet, row: int, item: SheetItem, systems: Sequence[str], measures: Sequence[str]) -> None:
    source = read_picture(item.source, "", item.key)
    sheet.picture(row, 0, _drawable(source), [_cut(item.key, _CAPTION_LETTERS)])
    sheet.text(row, _cut(item.edit_type, 24), _cut(_in_font(item), _TEXT_LETTERS, 1))
    for column, system in enumerate(systems, 1):
        cell = cell_of(item, system)
        picture = read_picture(cell.picture, cell.failure, item.key)
        caption = [_cut(f"{m} {format_score(score_of(cell, m))}", _CAPTION_LETTERS) for m in measures]
        if isinstance(picture, Image.Image):
            caption.append(_cut(cell.failure, _CAPTION_LETTERS))  # of its scores
        sheet.picture(row, column, _drawable(picture), caption)


def _drawable(picture: Image.Image | str) -> Image.Image:
    """The picture, or a grey one with the text."""
    if isinstance(picture, Image.Image):
        return picture
    empty = Image.new("RGB", (_SIDE, _SIDE), _EMPTY)
    text = "\n".join(textwrap.wrap(picture, _CAPTION_LETTERS - 6, max_lines=9, placeholder=" …"))
    ImageDraw.Draw(empty).multiline_text((12, 12), text, _EMPTY_INK, _font(), spacing=4)
    return empty


def _cut(text: str, letters: int, lines: int = 1) -> str:
    """The text in lines of so many letters, with "…" where it is longer."""
    return "\n".join(textwrap.wrap(text, letters, max_lines=lines, placeholder="…"))


@cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(13)


def _in_font(item: SheetItem) -> str:
    """The instruction, or where to find it: Pillow's font has Latin letters only and draws a box for all others."""
    letters = [c for c in item.instruction if not c.isspace()]
    missing = bytes(_font().getmask("\uffff"))
    boxes = sum(bytes(_font().getmask(c)) == missing for c in letters)
    return item.instruction if 2 * boxes <= len(letters) else f"(see {item.key}: this font lacks its letters)"
