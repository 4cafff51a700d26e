"""Items of a contact sheet with tiny pictures, failures of every kind, and texts that would break a careless page."""

import io
import random
from pathlib import Path

from PIL import Image

from rewardedit_jax.evaluation.contact_sheets import Cell, SheetItem

SYSTEMS, MEASURES, TYPES = ("base", "reward"), ("following", "quality"), ("Local", "Global", "Style")
HOSTILE = (
    "</script><script>alert(1)</script>",
    "\"quotes\" & 'more' <b>bold</b> &amp; `ticks` {{ 1 + 1 }} {% raw %}",
    "a line\nand another\tafter a tab",
    "把背景换成海滩 🎉 \u202eabc\u202c",
    "استبدل السماء",
)


def picture(file: Path, color: tuple[int, int, int], size: tuple[int, int] = (32, 24)) -> Path:
    Image.new("RGB", size, color).save(file)
    return file


def encoded(size: tuple[int, int]) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, (10, 90, 160)).save(data, "PNG")
    return data.getvalue()


def made_items(folder: Path, count: int = 24) -> list[SheetItem]:
    """Items of two systems; every fourth has a failure, and every instruction is one of `HOSTILE`, with a number."""
    rng = random.Random(0)
    files = [picture(folder / f"{i}.png", (40 * i, 90, 200 - 30 * i)) for i in range(5)]
    items = []
    for i in range(count):
        cells = {}
        for system in SYSTEMS:
            scores = {measure: rng.randrange(0, 50) / 10 for measure in MEASURES}
            cells[system] = Cell(files[rng.randrange(5)], scores)
        if i % 8 == 0:
            cells["base"] = Cell(None, {}, f"out of memory <{i}>")
        elif i % 8 == 4:
            cells["reward"] = Cell(files[0], {"following": None, "quality": 3}, "the judge refused")
        source = encoded((300, 200)) if i % 3 else files[1]
        items.append(SheetItem(f"item {i:02}", TYPES[i % 3], f"{HOSTILE[i % 5]} {i}", source, cells))
    return items
