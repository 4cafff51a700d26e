"""The shapes benchmark of editors: edits of held-out scenes, scored by the oracle, as files, table and picture grid.

Scene i always starts from the noise of seed i. The scores of two models, or of one model under two rewards, are
therefore paired, and their mean difference has a much smaller error than either mean.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from rewardedit_jax.command_line import local_path, whole_number
from rewardedit_jax.data.json_files import read_json
from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.reward import PERSPECTIVES, Reward
from rewardedit_jax.shapes.editor_report import Column, EditorTable, choose_rows, draw_grid, make_table
from rewardedit_jax.shapes.examples import ShapesExample, shapes_example
from rewardedit_jax.shapes.oracle import judge_batch
from rewardedit_jax.weights.files import write_json

# The rewards of Multi-Reward as Condition, table 6. The texts are the most frequent ones of training pairs with that
# score among those that name no object of the scene: an editor that reads only texts can then be tested too.
ASKED: Mapping[str, Reward] = {
    "5": Reward(),
    "3": Reward(3, 3, 3, ("the edit is not exact", "other parts changed slightly", "the picture is blurred")),
    "0": Reward(0, 0, 0, ("the picture was not changed", "the background turned black", "the picture is very noisy")),
}
NO_REWARD = "none"  # label of the results of an editor without reward modules
SETTINGS = {"sampler": "ddim", "steps": 15, "text_guidance": 3.0, "image_guidance": 1.5, "batch_size": 64}
BASELINE, FULL = "without reward", "reward"  # the arm that gains are measured from, and the arm with all parts
RESULT = "result.json"
_PICTURES = "pictures.npz"


@dataclass(frozen=True, eq=False)
class Result:
    """Edits of one editor and their scores, by the label of the reward asked for."""

    scores: Mapping[str, Float[np.ndarray, "n 3"]]
    pictures: Mapping[str, UInt8[np.ndarray, "n h w 3"]]

    def save(self, directory: Path, about: Mapping[str, Any]) -> None:
        """Writes every score and the fields `about` to result.json, and every picture to pictures.npz."""
        directory.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(directory / _PICTURES, **self.pictures)
        scores = {asked: [[round(float(s), 4) for s in row] for row in rows] for asked, rows in self.scores.items()}
        scenes = len(next(iter(self.scores.values())))
        fields = {**about, "scenes": scenes, "perspectives": list(PERSPECTIVES), "scores": scores}
        # Written last, because the presence of result.json marks an evaluation as done.
        with atomic_write(directory / RESULT) as unfinished:
            write_json(fields, unfinished)

    @classmethod
    def load(cls, directory: Path) -> "Result":
        scores = read_json(directory / RESULT)["scores"]
        with np.load(directory / _PICTURES) as pictures:
            return cls({k: np.asarray(rows, np.float32) for k, rows in scores.items()}, dict(pictures))


def held_out_scenes(count: int) -> list[ShapesExample]:
    """The first examples of the test split, equal to those of every data set on disk."""
    return [shapes_example(i, "test") for i in range(count)]


def edit_scenes(
    editor: Editor, scenes: Sequence[ShapesExample], reward: Reward | None, settings: Mapping[str, Any] = SETTINGS
) -> UInt8[np.ndarray, "n 32 32 3"]:
    """The editor's edits of the scenes, conditioned on `reward`; None for editors without reward modules."""
    edited = editor.edit(
        [scene.source for scene in scenes],
        [scene.instruction for scene in scenes],
        reward=reward,
        seed=range(len(scenes)),
        output="array",
        **settings,
    )
    return np.uint8(np.round(edited * 255))


def score(pictures: UInt8[np.ndarray, "n 32 32 3"], scenes: Sequence[ShapesExample]) -> Float[np.ndarray, "n 3"]:
    """The oracle's scores 0..5: following, preserving, quality."""
    sources, ideals = (np.stack([getattr(scene, name) for scene in scenes]) for name in ("source", "ideal"))
    return judge_batch(pictures, sources, ideals, [scene.edit_type for scene in scenes])


def evaluate_editor(editor: Editor, scenes: Sequence[ShapesExample]) -> Result:
    """Edits and scores under each reward of `ASKED`, or without reward if the editor has no reward modules."""
    asked = ASKED if editor.has_reward else {NO_REWARD: None}
    pictures = {label: edit_scenes(editor, scenes, reward) for label, reward in asked.items()}
    return Result({label: score(p, scenes) for label, p in pictures.items()}, pictures)


def references(scenes: Sequence[ShapesExample]) -> dict[str, Float[np.ndarray, "n 3"]]:
    """Scores of the unchanged sources and of the imperfect edits that editors are trained on."""
    named = {"source, unchanged": "source", "imperfect edits": "edited"}
    return {name: score(np.stack([getattr(s, field) for s in scenes]), scenes) for name, field in named.items()}


def report_editors(workdir: Path, results: Mapping[str, Sequence[Path]], count: int) -> list[Path]:
    """Prints the table and writes it as table.txt, .md and .json, and the pictures of the first seed as grid.png."""
    loaded = {arm: [Result.load(file.parent) for file in files] for arm, files in results.items()}
    scenes = held_out_scenes(count)
    table = table_of(loaded, scenes)
    files = [workdir / name for name in ("table.txt", "table.md", "table.json", "grid.png")]
    files[0].write_text(table.to_text() + "\n", "utf-8")
    files[1].write_text(table.to_markdown() + "\n", "utf-8")
    write_json(table.to_json(), files[2])
    Image.fromarray(grid_of({arm: of_seeds[0] for arm, of_seeds in loaded.items()}, scenes)).save(files[3])
    print(table.to_text())
    return files


def table_of(results: Mapping[str, Sequence[Result]], scenes: Sequence[ShapesExample]) -> EditorTable:
    """The table of arms, each with the results of its seeds."""
    scores = {
        (arm, asked): np.stack([result.scores[asked] for result in of_seeds])
        for arm, of_seeds in results.items()
        for asked in of_seeds[0].scores
    }
    return make_table(scores, (BASELINE, NO_REWARD), references(scenes))


def grid_of(results: Mapping[str, Result], scenes: Sequence[ShapesExample]) -> UInt8[np.ndarray, "h w 3"]:
    """Pictures of the baseline, and of one arm with reward from the lowest to the highest reward."""
    titles = [(BASELINE, BASELINE, NO_REWARD)] if BASELINE in results else []
    rewarded = sorted((arm for arm in results if arm != BASELINE), key=lambda arm: arm != FULL)  # `FULL` is first
    titles += [(f"{arm} {asked}", arm, asked) for arm in rewarded[:1] for asked in reversed(ASKED)]
    columns = [Column(title, results[arm].pictures[asked], results[arm].scores[asked]) for title, arm, asked in titles]
    return draw_grid(scenes, columns, choose_rows(scenes))


def add_editor_benchmark(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command `shapes` to launch/evaluate.py."""
    parser = benchmarks.add_parser("shapes", help="edits of the shapes world, scored by its oracle")
    parser.add_argument("--model", required=True, help="directory, training workdir, hub id, or 'shapes'")
    parser.add_argument("--output", required=True, type=local_path, metavar="DIR", help="for scores and pictures")
    parser.add_argument(
        "--count", type=partial(whole_number, least=1), default=256, help="held-out scenes (default: %(default)s)"
    )
    parser.set_defaults(run=_run)


def _run(a: argparse.Namespace) -> None:
    scenes = held_out_scenes(a.count)
    result = evaluate_editor(Editor.load(a.model), scenes)
    result.save(a.output, {"model": a.model, "settings": SETTINGS})
    scores = {(a.model, asked): scores[None] for asked, scores in result.scores.items()}
    print(make_table(scores, references=references(scenes)).to_text())
