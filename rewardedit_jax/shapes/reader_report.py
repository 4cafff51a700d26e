"""What a comparison of editors with different readers of their instructions reports: who follows which instructions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rewardedit_jax.evaluation.experiments.experiment import Results as ResultFiles
from rewardedit_jax.evaluation.experiments.table import Estimate, Samples, Table
from rewardedit_jax.evaluation.report import TextTable
from rewardedit_jax.reward import PERSPECTIVES
from rewardedit_jax.shapes.comparison_report import draw_pictures, load_results, scores_of
from rewardedit_jax.shapes.editor_benchmark import NO_REWARD, held_out_scenes, references
from rewardedit_jax.shapes.editor_report import Scores, make_table
from rewardedit_jax.shapes.picture_grid import Column, choose_rows, draw_grid
from rewardedit_jax.shapes.scene import EDIT_TYPES, SCENE_ATTRIBUTES

_FOLLOWING = PERSPECTIVES.index("following")
_OBJECTS = "single objects"  # the types of edits that have one in mind


def report_readers(workdir: Path, results: ResultFiles, count: int) -> tuple[Table, list[Path]]:
    """The table of scores, one of following by edit type, and grid.png. Gains are over the first arm."""
    loaded, scenes = load_results(results), held_out_scenes(count)
    scores = scores_of(loaded, (NO_REWARD,))
    first = next(iter(scores))
    followed = compare_following({arm: of for (arm, _), of in scores.items()}, [scene.edit_type for scene in scenes])
    table = replace(make_table(scores, first, references(scenes)), further=(followed.table(),))
    columns = [Column(arm, of[0].pictures[NO_REWARD], of[0].scores[NO_REWARD]) for arm, of in loaded.items()]
    grid = draw_grid(scenes, columns, choose_rows(scenes, scores[first].mean(0)), f"the training {first[0]}")
    return table.with_notes(following=followed.to_json()), draw_pictures(workdir, grid)


@dataclass(frozen=True)
class Following:
    """Following by edit type: of each arm, and the gains of all but the first over the first."""

    counts: Mapping[str, int]  # edit type → scenes
    means: Mapping[str, Mapping[str, Estimate]]  # edit type → arm
    gains: Mapping[str, Mapping[str, Estimate]]

    def to_json(self) -> dict[str, Any]:
        return {
            kind: {
                "scenes": count,
                "means": {arm: one.to_json() for arm, one in self.means[kind].items()},
                "gains": {arm: one.to_json() for arm, one in self.gains[kind].items()},
            }
            for kind, count in self.counts.items()
        }

    def table(self) -> TextTable:
        first, *others = next(iter(self.means.values()))
        several = any(len(one.per_seed) > 1 for of in self.means.values() for one in of.values())
        rows = [
            [f"{kind} ({count})", *(one.text(".2f", several) for one in self.means[kind].values()),
             *(one.text("+.2f", several) for one in self.gains[kind].values())]
            for kind, count in self.counts.items()
        ]  # fmt: skip
        notes = [
            f'Following by edit type, number of scenes in brackets. Δ: over "{first}", paired by scene and seed.',
            f"Edits of {_OBJECTS}: {', '.join(kind for kind in EDIT_TYPES if kind not in SCENE_ATTRIBUTES)}.",
        ]
        return TextTable(["edit type", first, *others, *(f"Δ {arm}" for arm in others)], rows, notes=notes)


def compare_following(scores: Mapping[str, Scores], edit_types: Sequence[str]) -> Following:
    """Following of the edits of single objects together, and of each type that is among the scenes."""
    types = np.asarray(edit_types)
    chosen = {_OBJECTS: ~np.isin(types, list(SCENE_ATTRIBUTES))} | {kind: types == kind for kind in EDIT_TYPES}
    chosen = {kind: of for kind, of in chosen.items() if of.any()}
    samples = {
        kind: {arm: Samples.of(found[:, of, _FOLLOWING]) for arm, found in scores.items()}
        for kind, of in chosen.items()
    }
    return Following(
        {kind: int(of.sum()) for kind, of in chosen.items()},
        {kind: {arm: one.estimate() for arm, one in of.items()} for kind, of in samples.items()},
        {kind: _gains(list(of.items())) for kind, of in samples.items()},
    )


def _gains(samples: Sequence[tuple[str, Samples]]) -> dict[str, Estimate]:
    (_, first), *others = samples
    return {arm: one.minus(first).estimate() for arm, one in others}
