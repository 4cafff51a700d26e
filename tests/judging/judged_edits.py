"""Small data for the tests of judging: edit number i has the instruction "edit i"."""

import json
from pathlib import Path

from PIL import Image


def write_edits(folder: Path, count: int, side: int = 32) -> Path:
    """A list of `count` triplets beside their images."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(count):
        colour = (i % 251, i // 251, 7)
        Image.new("RGB", (side, side), colour).save(folder / f"{i}_a.png")
        Image.new("RGB", (side, side), colour[::-1]).save(folder / f"{i}_b.png")
        lines.append(json.dumps({"input": f"{i}_a.png", "output": f"{i}_b.png", "instruction": f"edit {i}"}))
    (folder / "edits.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "edits.jsonl"


def read_lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]
