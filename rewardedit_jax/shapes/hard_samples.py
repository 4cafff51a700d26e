"""Hard training samples, edited again by an editor that learnt from them.

Multi-Reward as Condition (arXiv:2411.04713, appendix C.3, table 9) takes 500 training samples with low scores, edits
their sources again with the reward-conditioned editor, and judges both edited images.
"""

import argparse
from functools import partial
from itertools import count, islice
from pathlib import Path

import numpy as np

from rewardedit_jax.command_line import local_path, whole_number
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.evaluation.experiments.experiment import Results
from rewardedit_jax.evaluation.experiments.table import Samples, Table, make_table
from rewardedit_jax.reward import PERSPECTIVES, Reward
from rewardedit_jax.shapes.comparison_report import draw_pictures, load_results
from rewardedit_jax.shapes.editor_benchmark import NO_REWARD, SETTINGS, Result, edit_scenes, score
from rewardedit_jax.shapes.editor_report import Scores, samples_of
from rewardedit_jax.shapes.examples import ShapesExample, shapes_example
from rewardedit_jax.shapes.picture_grid import Column, choose_rows, draw_grid

LIMIT = 2  # a sample is hard in a perspective where its score is not above this
ORIGINAL = "original edit"
_BEST = "5"


def hard_samples(number: int) -> list[ShapesExample]:
    """The first training examples that are hard in at least one perspective."""
    examples = (shapes_example(i, "train") for i in count())
    return list(islice((example for example in examples if example.scores.min() <= LIMIT), number))


def edit_again(editor: Editor, samples: list[ShapesExample]) -> Result:
    """The samples' own edited images and the editor's, which is asked for 5/5/5 if it takes rewards."""
    asked, reward = (_BEST, Reward()) if editor.has_reward else (NO_REWARD, None)
    pictures = {ORIGINAL: np.stack([s.edited for s in samples]), asked: edit_scenes(editor, samples, reward)}
    return Result({label: score(found, samples) for label, found in pictures.items()}, pictures)


def report_hard_samples(workdir: Path, results: Results, number: int) -> tuple[Table, list[Path]]:
    """The original edited images beside those of each arm: over all samples, and where the original was hard."""
    loaded, samples = load_results(results), hard_samples(number)
    original = next(iter(loaded.values()))[0].scores[ORIGINAL][None]
    scores = {(ORIGINAL, ""): original}
    for arm, found in loaded.items():
        (asked,) = set(found[0].scores) - {ORIGINAL}
        scores[arm, asked] = np.stack([result.scores[asked] for result in found])
    everywhere = make_table({key: samples_of(of) for key, of in scores.items()}, (ORIGINAL, ""))
    hard = np.stack([sample.scores for sample in samples]) <= LIMIT
    where = f"score ≤ {LIMIT}"
    of_hard = {(arm, f"{asked}; {where}".removeprefix("; ")): _where(hard, of) for (arm, asked), of in scores.items()}
    lines = (*everywhere.lines, *make_table(of_hard, (ORIGINAL, where)).lines)
    table = Table(lines).with_notes(
        f"Oracle's scores 0..5 of the first {number} training edits with a recorded score of at most {LIMIT} in one "
        f'perspective or more. "{where}": in each column, the {_counts(hard)} of them that are hard in it.',
        "The paper's table has all samples in all columns.",
    )
    return table, draw_pictures(workdir, _grid(loaded, samples, original[0]))


def _where(hard: np.ndarray, scores: Scores) -> dict[str, Samples]:
    """In each perspective, the scores of the samples that are hard in it."""
    chosen = hard.astype(float)
    return {name: Samples(scores[..., i] * chosen[:, i], chosen[:, i]) for i, name in enumerate(PERSPECTIVES)}


def _counts(hard: np.ndarray) -> str:
    return "/".join(str(n) for n in hard.sum(0))


def _grid(loaded, samples, ranking):
    columns = [
        Column(label if label == ORIGINAL else f"{arm} {label}", found[0].pictures[label], found[0].scores[label])
        for i, (arm, found) in enumerate(loaded.items())
        for label in found[0].scores
        if label != ORIGINAL or not i
    ]
    return draw_grid(samples, columns, choose_rows(samples, ranking), "the original edited images")


def add_hard_samples(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command `shapes_hard` to launch/evaluate.py."""
    parser = benchmarks.add_parser("shapes_hard", help="training edits with low scores, edited again")
    parser.add_argument("--model", required=True, help="directory, training workdir, hub id, or 'shapes_reward'")
    parser.add_argument("--output", required=True, type=local_path, metavar="DIR", help="for scores and pictures")
    parser.add_argument(
        "--count", type=partial(whole_number, least=1), default=500, help="training edits (default: %(default)s)"
    )
    parser.set_defaults(run=_run, own_files=True)


def _run(a: argparse.Namespace) -> None:
    result = edit_again(Editor.load(a.model), hard_samples(a.count))
    result.save(a.output, {"model": a.model, "settings": SETTINGS})
    for label, found in result.scores.items():
        print(label, *(f"{name} {mean:.2f}" for name, mean in zip(PERSPECTIVES, found.mean(0), strict=True)))
