"""The benchmark of harder questions: an editor's scores by kind of question, and a picture of one scene of each."""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from rewardedit_jax.command_line import local_path, whole_number
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.evaluation.report import TextTable, plus_minus
from rewardedit_jax.evaluation.sheets import CAPTION_LINE, Sheet
from rewardedit_jax.reward import PERSPECTIVES, Reward
from rewardedit_jax.shapes.editor_benchmark import SETTINGS, edit_pictures, rounded, score
from rewardedit_jax.shapes.picture_grid import LEGEND, SCALE, median_index, score_caption
from rewardedit_jax.shapes.questions import Question, harder_questions
from rewardedit_jax.shapes.render import SIZE
from rewardedit_jax.weights.files import write_json

Pictures = UInt8[np.ndarray, "n 32 32 3"]
Scores = Float[np.ndarray, "n 3"]


def answer(editor: Editor, questions: Sequence[Question]) -> Pictures:
    """The editor's results: at reward 5, if it takes rewards. Question i starts from the noise of seed i."""
    pictures = np.stack([question.source for question in questions])
    # All questions of a kind have the same number of instructions.
    for turn in zip(*(question.instructions for question in questions), strict=True):
        pictures = edit_pictures(editor, pictures, turn, Reward() if editor.has_reward else None, SETTINGS)
    return pictures


def make_table(scores: Mapping[str, Scores]) -> TextTable:
    """A row for each kind of question: means, and their differences from the first kind, paired by scene."""
    usual = next(iter(scores.values()))
    rows = [
        [kind, *_cells(found, ".2f"), *([""] * len(PERSPECTIVES) if found is usual else _cells(found - usual, "+.2f"))]
        for kind, found in scores.items()
    ]
    note = (
        f"Oracle's scores 0..5: mean of {len(usual)} held-out scenes ± standard error over scenes. "
        f'Δ: over "{next(iter(scores))}", same scenes and starting noise.'
    )
    return TextTable(["question", *PERSPECTIVES, *(f"Δ {name}" for name in PERSPECTIVES)], rows, notes=[note])


def _cells(values: Scores, spec: str) -> list[str]:
    means, errors = values.mean(0, float), values.std(0, float, ddof=1) / np.sqrt(len(values))
    return [plus_minus(mean, error, spec) for mean, error in zip(means, errors, strict=True)]


def draw_answers(
    questions: Mapping[str, Sequence[Question]], pictures: Mapping[str, Pictures], scores: Mapping[str, Scores]
) -> Image.Image:
    """A row for each kind of question: the scene with the median sum of scores, the lower one of two in the middle."""
    sheet = Sheet(len(questions), 3, SCALE * SIZE, caption=CAPTION_LINE + 6, heading=34, footer=20, text_width=188)
    sheet.text_heading("instructions")
    for column, title in enumerate(("source", "output", "ideal")):
        sheet.heading(column, title)
    for row, (kind, asked) in enumerate(questions.items()):
        i = median_index(scores[kind].sum(1))
        sheet.text(row, kind, ", then ".join(asked[i].instructions))
        shown = ((asked[i].source, ""), (pictures[kind][i], score_caption(scores[kind][i])), (asked[i].ideal, ""))
        for column, (picture, text) in enumerate(shown):
            sheet.picture(row, column, Image.fromarray(picture), [text])
    sheet.footer(f"{LEGEND}; rows: median scenes")
    return sheet.image


def add_question_benchmark(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command `shapes_questions` to launch/evaluate.py."""
    parser = benchmarks.add_parser("shapes_questions", help="the same for instructions in forms that training lacks")
    parser.add_argument("--model", required=True, help="directory, training workdir, hub id, or 'shapes_reward'")
    parser.add_argument("--output", required=True, type=local_path, metavar="DIR", help="for table, scores and picture")
    parser.add_argument(
        "--count", type=partial(whole_number, least=2), default=256, help="held-out scenes (default: %(default)s)"
    )
    parser.set_defaults(run=_run, own_files=True)


def _run(a: argparse.Namespace) -> None:
    questions = harder_questions(a.count)
    editor = Editor.load(a.model)
    pictures = {kind: answer(editor, asked) for kind, asked in questions.items()}
    scores = {kind: score(pictures[kind], asked) for kind, asked in questions.items()}
    table = make_table(scores)
    _save(a.output, table, {"model": a.model, "settings": SETTINGS}, scores)
    draw_answers(questions, pictures, scores).save(a.output / "questions.png")
    print(table.to_text())


def _save(directory: Path, table: TextTable, about: Mapping[str, Any], scores: Mapping[str, Scores]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "questions.md").write_text(table.to_markdown() + "\n", "utf-8")
    write_json({**about, "perspectives": list(PERSPECTIVES), "scores": rounded(scores)}, directory / "questions.json")
