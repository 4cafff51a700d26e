"""Small benchmarks in their published layouts, and launch/evaluate.py's commands on them within this process."""

import io
import json
from argparse import ArgumentParser
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

from rewardedit_jax.data.open_edits import open_edits
from rewardedit_jax.evaluation.editing_benchmarks.command import add_editing_benchmarks
from rewardedit_jax.judging.questions import EditId, ask_each
from rewardedit_jax.judging.rubrics import read_rubrics
from rewardedit_jax.judging.store import Answer, Store

TYPES = ("Local", "Remove", "Add", "Texture", "Background", "Global", "Style")


def picture(seed: int, width: int = 16, height: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def write_real_edit(root: Path, photographs: int = 2, types: int = 7) -> Path:
    """Real-Edit with the instructions "edit 0", "edit 1", ..., in the order of photographs and types."""
    (root / "Real-Edit").mkdir(parents=True)
    lines = {}
    for i in range(photographs):
        picture(i).save(root / "Real-Edit" / f"{i}.png")
        lines[f"{i}.png"] = [f"{t + 1}. {name}: edit {types * i + t}" for t, name in enumerate(TYPES[:types])]
    (root / "real_edit_instruct.json").write_text(json.dumps(lines))
    return root


def write_edits(folder: Path, photographs: int = 2, types: int = 7) -> Path:
    """Edits of `write_real_edit` as another program would have made them."""
    for i in range(photographs):
        (folder / f"{i}.png").mkdir(parents=True)
        for t in range(types):
            picture(1000 + types * i + t).save(folder / f"{i}.png" / f"{t + 1}.png")
    return folder


def evaluate(*words: object) -> None:
    """What launch/evaluate.py does."""
    parser = ArgumentParser()
    add_editing_benchmarks(parser.add_subparsers(required=True))
    a = parser.parse_args([str(word) for word in words])
    a.run(a)


def read(file: Path) -> dict:
    return json.loads(file.read_text())


def write_gedit_bench(root: Path, rows: list[tuple[str, str, str, bool]]) -> Path:
    """GEdit-Bench with these rows (key, language, task, intersection): row number i asks "edit i"."""
    root.mkdir(parents=True)
    table = pyarrow.Table.from_pylist(
        [
            {
                "key": key,
                "task_type": task,
                "instruction": f"edit {i}",
                "instruction_language": language,
                "Intersection_exist": intersection,
                "input_image": {"bytes": png(picture(int(key))), "path": None},
            }
            for i, (key, language, task, intersection) in enumerate(rows)
        ]
    )
    parquet.write_table(table, root / "train-0.parquet")
    return root


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def store_answers(store: Path, folder: Path, asked, answer: Callable[[str, str], str | None]) -> None:
    """Stores `answer(instruction, measure)` about the edits of a folder as a judge's; None: the judge gives none.

    Args:
      asked: (rubrics without texts, folder of their texts, image settings).
    """
    rubrics, texts, images = asked
    digests = {name: rubric.digest for name, rubric in read_rubrics(texts, rubrics).items()}
    questions = ask_each("openai", "m", digests, images.name)
    data = open_edits(folder / "edits.jsonl", allow_outside=True)
    with Store(store, create=True) as opened:
        opened.add_questions(questions)
        for identity in data.identities(range(len(data))):
            for question in questions:
                edit = EditId(*identity)
                if (text := answer(edit.instruction, question.perspective)) is not None:
                    opened.add_answer(question.id + edit.digest, edit, Answer(text, "stop"))


def write_magicbrush(root: Path, sessions: dict[str, int]) -> Path:
    """The test set of MagicBrush with so many turns for each session, and captions of the targets."""
    listed, captions, number = {}, {}, 0
    for session, turns in sessions.items():
        folder = root / "images" / session
        folder.mkdir(parents=True)
        names = [f"{session}-input.png", *(f"{session}-output{turn}.png" for turn in range(1, turns + 1))]
        for name in names:
            picture(sum(map(ord, name))).save(folder / name)
        pairs = enumerate(pairwise(names), number)
        listed[session] = [{"input": a, "output": b, "instruction": f"edit {i}"} for i, (a, b) in pairs]
        captions[session] = {name: f"shows {name}" for name in names[1:]}
        number += turns
    (root / "edit_sessions.json").write_text(json.dumps(listed))
    (root / "local_descriptions.json").write_text(json.dumps(captions))
    return root


def read_lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]
