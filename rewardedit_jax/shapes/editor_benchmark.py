"""The shapes benchmark of editors: edits of held-out scenes under several rewards, scored by the oracle, as files.

Scene i always starts from the noise of seed i. The scores of two models, or of one model under two rewards, are
therefore paired, and their mean difference has a much smaller error than either mean.
"""

import argparse
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from rewardedit_jax.command_line import local_path, whole_number
from rewardedit_jax.data.json_files import read_json
from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.reward import PERSPECTIVES, Reward
from rewardedit_jax.shapes.asked import ASKED, FURTHER, IN_TABLE, asked_reward
from rewardedit_jax.shapes.editor_report import make_table
from rewardedit_jax.shapes.examples import ShapesExample, shapes_example
from rewardedit_jax.shapes.oracle import judge_batch
from rewardedit_jax.shapes.questions import Question
from rewardedit_jax.weights.files import write_json

NO_REWARD = "none"  # label of the results of an editor without reward modules
SETTINGS = {"sampler": "euler", "steps": 15, "text_guidance": 2.0, "image_guidance": 1.5, "batch_size": 64}
BASELINE, FULL = "without reward", "reward"  # the arm that gains are measured from, and the arm with all parts
RESULT = "result.json"
COUNT = "count"  # field of `RESULT`; files that lack it asked with other texts, and a comparison evaluates them again
FURTHER_SHARE = 1 / 4  # of the scenes, for the rewards that are not in the table: a curve needs fewer than a difference
_PICTURES = "pictures.npz"


@dataclass(frozen=True, eq=False)
class Result:
    """Edits of one editor and their scores, by the label of the reward asked for."""

    scores: Mapping[str, Float[np.ndarray, "n 3"]]
    pictures: Mapping[str, UInt8[np.ndarray, "n h w 3"]]
    # Of the rewards that are not in the table, on the first of the scenes; empty without reward modules.
    further: Mapping[str, Float[np.ndarray, "m 3"]] = field(default_factory=dict)

    def save(self, directory: Path, about: Mapping[str, Any]) -> None:
        """Writes every score and the fields `about` to result.json, and the pictures to pictures.npz."""
        directory.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(directory / _PICTURES, **self.pictures)
        fields = {
            **about,
            COUNT: len(next(iter(self.scores.values()))),
            "perspectives": list(PERSPECTIVES),
            "scores": rounded(self.scores),
            "further": rounded(self.further),
        }
        # Written last, because the presence of result.json marks an evaluation as done.
        with atomic_write(directory / RESULT) as unfinished:
            write_json(fields, unfinished)

    @classmethod
    def load(cls, directory: Path) -> "Result":
        fields = read_json(directory / RESULT)
        scores, further = (
            {label: np.asarray(rows, np.float32) for label, rows in fields[name].items()}
            for name in ("scores", "further")
        )
        with np.load(directory / _PICTURES) as pictures:
            return cls(scores, dict(pictures), further)


def rounded(scores: Mapping[str, Float[np.ndarray, "n 3"]]) -> dict[str, list[list[float]]]:
    """Scores for a JSON file, to four decimals."""
    return {label: [[round(float(s), 4) for s in row] for row in rows] for label, rows in scores.items()}


def held_out_scenes(count: int) -> list[ShapesExample]:
    """The first examples of the test split, equal to those of every data set on disk."""
    return [shapes_example(i, "test") for i in range(count)]


def edit_scenes(
    editor: Editor,
    scenes: Sequence[ShapesExample],
    reward: Reward | Sequence[Reward] | None,
    settings: Mapping[str, Any] = SETTINGS,
) -> UInt8[np.ndarray, "n 32 32 3"]:
    """The editor's edits of the scenes.

    Args:
      reward: one for all scenes or one for each; None for editors without reward modules.
    """
    return edit_pictures(
        editor, [scene.source for scene in scenes], [scene.instruction for scene in scenes], reward, settings
    )


def edit_pictures(
    editor: Editor,
    pictures: Sequence[UInt8[np.ndarray, "32 32 3"]],
    instructions: Sequence[str],
    reward: Reward | Sequence[Reward] | None,
    settings: Mapping[str, Any] = SETTINGS,
) -> UInt8[np.ndarray, "n 32 32 3"]:
    """The editor's edits of pictures, as 8-bit values. Picture i starts from the noise of seed i."""
    edited = editor.edit(
        list(pictures), list(instructions), reward=reward, seed=range(len(pictures)), output="array", **settings
    )
    return np.uint8(np.round(edited * 255))


def score(
    pictures: UInt8[np.ndarray, "n 32 32 3"], scenes: Sequence[ShapesExample | Question]
) -> Float[np.ndarray, "n 3"]:
    """The oracle's scores 0..5: following, preserving, quality."""
    sources, ideals = (np.stack([getattr(scene, name) for scene in scenes]) for name in ("source", "ideal"))
    return judge_batch(pictures, sources, ideals, [scene.edit_type for scene in scenes])


def evaluate_editor(editor: Editor, scenes: Sequence[ShapesExample], asked: Collection[str] = ASKED) -> Result:
    """Edits and scores under the rewards, or without reward if the editor has no reward modules.

    Args:
      scenes: `held_out_scenes`; of rewards that are not in the table, only the first `FURTHER_SHARE`.
      asked: labels of rewards.
    """
    if not editor.has_reward:
        pictures = edit_scenes(editor, scenes, None)
        return Result({NO_REWARD: score(pictures, scenes)}, {NO_REWARD: pictures})
    pictures = {label: _asked_edits(editor, scenes, label) for label in IN_TABLE if label in asked}
    first = scenes[: math.ceil(FURTHER_SHARE * len(scenes))]
    further = {label: score(_asked_edits(editor, first, label), first) for label in FURTHER if label in asked}
    return Result({label: score(p, scenes) for label, p in pictures.items()}, pictures, further)


def _asked_edits(editor: Editor, scenes: Sequence[ShapesExample], label: str) -> UInt8[np.ndarray, "n 32 32 3"]:
    # Each scene has its own texts, which name its objects.
    return edit_scenes(editor, scenes, [asked_reward(label, i) for i in range(len(scenes))])


def references(scenes: Sequence[ShapesExample]) -> dict[str, Float[np.ndarray, "n 3"]]:
    """Scores of the unchanged sources and of the imperfect edits that editors are trained on."""
    named = {"source, unchanged": "source", "imperfect edits": "edited"}
    return {name: score(np.stack([getattr(s, field) for s in scenes]), scenes) for name, field in named.items()}


def add_editor_benchmark(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command `shapes` to launch/evaluate.py."""
    parser = benchmarks.add_parser("shapes", help="edits of the shapes world, scored by its oracle")
    parser.add_argument("--model", required=True, help="directory, training workdir, hub id, or 'shapes'")
    parser.add_argument("--output", required=True, type=local_path, metavar="DIR", help="for scores and pictures")
    parser.add_argument(
        "--count", type=partial(whole_number, least=1), default=256, help="held-out scenes (default: %(default)s)"
    )
    rewards = f"rewards to ask for, of {', '.join(ASKED)} (default: all)"
    parser.add_argument("--asked", nargs="+", choices=ASKED, default=ASKED, metavar="REWARD", help=rewards)
    parser.set_defaults(run=_run, own_files=True)


def _run(a: argparse.Namespace) -> None:
    scenes = held_out_scenes(a.count)
    result = evaluate_editor(Editor.load(a.model), scenes, a.asked)
    result.save(a.output, {"model": a.model, "settings": SETTINGS})
    scores = {(a.model, asked): scores[None] for asked, scores in result.scores.items()}
    print(make_table(scores, references=references(scenes)).to_text())
