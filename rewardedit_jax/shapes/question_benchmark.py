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
from rewardedit_jax.shapes.editor_benchmark import SETTINGS
from rewardedit_jax.shapes.editor_report import means
from rewardedit_jax.shapes.oracle import judge_batch
from rewardedit_jax.shapes.questions import Question, harder_questions
from rewardedit_jax.shapes.render import SIZE
from rewardedit_jax.weights.files import write_json

Pictures = UInt8[np.ndarray, "n 32 32 3"]
Scores = Float[np.ndarray, "n 3"]
_SCALE = 5  # of the pictures: large enough to see their pixels


def answer(editor: Editor, questions: Sequence[Question]) -> Pictures:
    """The editor's results: at reward 5, if it takes rewards. Question i starts from the noise of seed i."""
    pictures = np.stack([question.source for question in questions])
    # All questions of a kind have the same number of instructions.
    for turn in zip(*(question.instructions for question in questions), strict=True):
        reward = Reward() if editor.has_reward else None
        edited = editor.edit(
            list(pictures), list(turn), reward=reward, seed=range(len(questions)), output="array", **SETTINGS
        )
        pictures = np.uint8(np.round(edited * 255))
    return pictures


def score(pictures: Pictures, questions: Sequence[Question]) -> Scores:
    """The oracle's scores 0..5: following, preserving, quality."""
    sources, ideals = (np.stack([getattr(question, name) for question in questions]) for name in ("source", "ideal"))
    return judge_batch(pictures, sources, ideals, [question.edit_type for question in questions])


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
    found = means(values[None])
    return [plus_minus(mean, error, spec) for mean, error in zip(found.mean, found.error, strict=True)]


def draw_answers(
    questions: Mapping[str, Sequence[Question]], pictures: Mapping[str, Pictures], scores: Mapping[str, Scores]
) -> Image.Image:
    """A row for each kind of question: the scene with the median sum of scores, the lower one of two in the middle."""
    sheet = Sheet(len(questions), 3, _SCALE * SIZE, caption=CAPTION_LINE + 6, heading=34, footer=20, text_width=188)
    sheet.text_heading("instructions")
    for column, title in enumerate(("source", "output", "ideal")):
        sheet.heading(column, title)
    for row, (kind, asked) in enumerate(questions.items()):
        order = np.argsort(scores[kind].sum(1), kind="stable")
        i = int(order[(len(order) - 1) // 2])
        sheet.text(row, kind, ", then ".join(asked[i].instructions))
        caption = "  ".join(f"{letter} {value:.1f}" for letter, value in zip("fpq", scores[kind][i], strict=True))
        shown = ((asked[i].source, ""), (pictures[kind][i], caption), (asked[i].ideal, ""))
        for column, (picture, text) in enumerate(shown):
            sheet.picture(row, column, Image.fromarray(picture), [text])
    sheet.footer("f following   p preserving   q quality: scores 0..5 of the oracle judge; rows: median scenes")
    return sheet.image


def add_question_benchmark(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command `shapes_questions` to launch/evaluate.py."""
    parser = benchmarks.add_parser("shapes_questions", help="the same for instructions in forms that training lacks")
    parser.add_argument("--model", required=True, help="directory, training workdir, hub id, or 'shapes_reward'")
    parser.add_argument("--output", required=True, type=local_path, metavar="DIR", help="for table, scores and picture")
    parser.add_argument(
        "--count", type=partial(whole_number, least=2), default=256, help="held-out scenes (default: %(default)s)"
    )
    parser.set_defaults(run=_run)


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
    rounded = {kind: [[round(float(s), 4) for s in row] for row in found] for kind, found in scores.items()}
    write_json({**about, "perspectives": list(PERSPECTIVES), "scores": rounded}, directory / "questions.json")
