"""Small edits with planted duplicates, unchanged and contradictory edits, as lists and as prepared data sets."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from rewardedit_jax.data.preparing import prepare_edits
from rewardedit_jax.data.triplets import TripletFile

FEEDBACK = ["None"] * 3
BAD = "broken.png"  # a name in a list: a file that is no image


def scene(seed, side=128):
    """A random picture with coarse and fine structure, as photographs have: else many bits of a hash are noise."""
    rng, picture = np.random.default_rng(seed), 0
    for size, weight in ((4, 0.4), (8, 0.3), (16, 0.2), (32, 0.1)):
        layer = Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8))
        picture = picture + weight * np.asarray(layer.resize((side, side), Image.Resampling.BICUBIC), float)
    return Image.fromarray(picture.astype(np.uint8))


def edited(picture, seed):
    """The picture with a rectangle pasted."""
    x, y, *color = np.random.default_rng([seed, 1]).integers(0, 32, 5).tolist()
    changed = picture.copy()
    changed.paste(tuple(8 * value for value in color), (x, y, x + 40, y + 40))
    return changed


def encoded(picture, kind="png", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def write_list(folder: Path, rows) -> Path:
    """A list of triplets; a row is (source, edited, instruction, scores), of pictures, bytes or `BAD`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (source, result, instruction, scores, *task) in enumerate(rows):
        names = [_write(folder, f"{number}-{i}", image) for i, image in enumerate((source, result))]
        line = {"input": names[0], "output": names[1], "instruction": instruction, "task": (task or ["move"])[0]}
        lines.append(json.dumps({**line, **({"scores": scores, "feedback": FEEDBACK} if scores else {})}))
    (folder / "edits.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "edits.jsonl"


def _write(folder, name, image):
    if image == BAD:
        (folder / BAD).write_bytes(b"no image")
        return BAD
    data = image if isinstance(image, bytes) else encoded(image)
    (folder / name).write_bytes(data)
    return name


def prepared(list_file: Path, folder: Path, per_shard=4) -> Path:
    """The list as a prepared data set."""
    preparation = prepare_edits(TripletFile(list_file), folder, "made", "", per_shard)
    preparation.run()
    preparation.finish()
    return folder


def rows(count, start=0):
    """Different edits, judged 0..5 in steps of 0.5 by turns."""
    pictures = [scene(start + i) for i in range(count)]
    return [
        (picture, edited(picture, i), f"paste {i}", [i % 11 / 2] * 3, ("add", "move")[i % 2])
        for i, picture in enumerate(pictures)
    ]


def planted():
    """(rows, reason of each by rule "labels" and keep 1.0)."""
    good = rows(6)
    source, result, *_ = good[5]  # judged 2.5
    again = (encoded(result, "jpeg", quality=92), encoded(source, "webp", quality=95))
    other, changed = scene(90), edited(scene(90), 90)
    made = [
        *good,
        (source, result, "Paste  5.", [2] * 3),  # the same files, and in other words the same instruction
        (again[1], again[0], "paste 5", [1] * 3),  # the same pictures in other files
        (source, result, "paste another", [1] * 3),  # another instruction: no duplicate
        (other, encoded(other, "jpeg", quality=92), "do it", [5] * 3),
        (other, changed, "judge it", [5, 5, 5]),
        (other, changed, "judge it", [5, 5, 2]),
        (other, changed, "no label", None),
        (other, BAD, "read it", [5] * 3),
    ]
    reasons = ["kept"] * 6 + [
        "exact duplicate",
        "near duplicate",
        "kept",
        "unchanged",
        "contradictory",
        "contradictory",
    ]
    return made, [*reasons, "not judged", "unreadable"]
