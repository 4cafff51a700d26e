"""Contact sheets as one web page: all items, filters by type, score and failure, sorting, and means of what is shown.

The page is one file without references to others: pictures are embedded as thumbnails, and its policy (Content Security
Policy) forbids the browser every request. The layout is `templates/contact_page.html`.
"""

import base64
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from PIL import Image

from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.data.prefetch import prefetch_map
from rewardedit_jax.evaluation.contact_sheets import (
    Cell,
    SheetItem,
    cell_of,
    format_score,
    measure_names,
    read_picture,
    score_of,
    system_names,
)

TEMPLATE = Path(__file__).parent / "templates" / "contact_page.html"
_AHEAD = 16  # items whose pictures are read before they are written
_LOSSLESS_SIDE = 128  # pixels: the page enlarges smaller pictures, where losses would show
_WEBP = {"quality": 80, "method": 2}  # method 4 saves 3 % of the size in twice the time


def write_page(items: Sequence[SheetItem], file: Path, title: str, side: int = 256) -> None:
    """Writes the page, with pictures of at most `side` pixels. An unreadable picture is named in its cell.

    Raises ValueError if there are no systems or keys repeat.
    """
    # Imported here: only this function needs it.
    from jinja2 import Environment, StrictUndefined

    systems, measures = system_names(items), measure_names(items)
    types = Counter(item.edit_type for item in items)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text("utf-8"))
    arguments = ((item, systems, measures, side) for item in items)
    # A stream from thumbnails to file: memory holds a few items, however many there are.
    stream = template.stream(
        title=title,
        side=side,
        total=len(items),
        types=dict(types),
        systems=systems,
        measures=measures,
        items=_results(prefetch_map(_content, arguments, _AHEAD)),
    )
    with atomic_write(file) as unfinished, unfinished.open("wb") as page:
        # Names of files may hold bytes that are not UTF-8, which Python keeps as lone surrogates.
        stream.dump(page, "utf-8", "backslashreplace")


def _results(futures: Iterator[Future[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    return (future.result() for future in futures)


def _content(item: SheetItem, systems: Sequence[str], measures: Sequence[str], side: int) -> dict[str, Any]:
    """What the template shows of an item."""
    named = [(system, cell_of(item, system)) for system in systems]
    cells = [_cell(system, cell, measures, item.key, side) for system, cell in named]
    scores = [[score_of(cell, measure) for measure in measures] for _, cell in named]
    return {
        "key": item.key,
        "type": item.edit_type,
        "instruction": item.instruction,
        "source": _thumbnail(item.source, "", item.key, side),
        "cells": cells,
        "scores": scores,
        "failed": [bool(cell["picture"]["reason"]) or None in of for cell, of in zip(cells, scores, strict=True)],
    }


def _cell(system: str, cell: Cell, measures: Sequence[str], key: str, side: int) -> dict[str, Any]:
    scores = [(measure, score_of(cell, measure)) for measure in measures]
    return {
        "system": system,
        "picture": _thumbnail(cell.picture, cell.failure, key, side),
        "scores": [(measure, format_score(score), score is None) for measure, score in scores],
        # Without a picture, the reason stands in its place.
        "failure": cell.failure if cell.picture is not None else "",
    }


def _thumbnail(picture: Path | bytes | None, failure: str, name: str, side: int) -> dict[str, Any]:
    """The embedded picture with its size, or the reason why there is none."""
    image = read_picture(picture, failure, name)
    if isinstance(image, str):
        return {"reason": image}
    # Never enlarged here: the page shows small pictures at a multiple of their size, with visible pixels.
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    lossless = max(image.size) <= _LOSSLESS_SIDE
    scale = max(1, side // max(image.size))
    data = io.BytesIO()
    image.save(data, "WEBP", **({"lossless": True} if lossless else _WEBP))
    url = f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
    shown = {"width": scale * image.width, "height": scale * image.height}
    return {"url": url, **shown, "small": scale > 1, "reason": ""}
