"""What the loop reports: scores of the editors trained on each part of the data, the parts, and a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rewardedit_jax.data.labels import LabelledEdits
from rewardedit_jax.data.open_edits import open_edits
from rewardedit_jax.evaluation.experiments.experiment import Results as ResultFiles
from rewardedit_jax.evaluation.experiments.table import Table
from rewardedit_jax.reward import PERSPECTIVES
from rewardedit_jax.shapes.asked import IN_TABLE
from rewardedit_jax.shapes.comparison_report import draw_pictures, load_results
from rewardedit_jax.shapes.editor_benchmark import NO_REWARD, held_out_scenes, references
from rewardedit_jax.shapes.editor_report import make_table
from rewardedit_jax.shapes.picture_grid import Column, choose_rows, draw_grid

TITLES = {
    "everything": "everything",
    "random": "random part",
    "top": "scorer's top part",
    "reward": "all, with reward",
}  # arm → name in the table
_BASELINE = TITLES["everything"]
BEST = IN_TABLE[0]


def report_loop(
    workdir: Path, results: ResultFiles, count: int, *, labels: Path, parts: Mapping[str, Path]
) -> tuple[Table, list[Path]]:
    """The table of all arms, those with reward asked for the highest, and grid.png.

    Args:
      results: title of the arm → result.json of each seed.
      labels: the oracle's labels of all training edits.
      parts: title of the arm → its data set, for arms without reward.
    """
    loaded, scenes = load_results(results), held_out_scenes(count)
    shown = {arm: BEST if BEST in found[0].scores else NO_REWARD for arm, found in loaded.items()}
    scores = {(arm, shown[arm]): np.stack([r.scores[shown[arm]] for r in found]) for arm, found in loaded.items()}
    means = {part: _oracle_means(folder, labels) for part, folder in parts.items()}
    table = make_table(scores, (_BASELINE, NO_REWARD), references(scenes)).with_notes(_parts_note(means), parts=means)
    columns = [Column(arm, found[0].pictures[shown[arm]], found[0].scores[shown[arm]]) for arm, found in loaded.items()]
    ranking = scores[_BASELINE, NO_REWARD].mean(0)
    grid = draw_grid(scenes, columns, choose_rows(scenes, ranking), f'the training on "{_BASELINE}"')
    return table, draw_pictures(workdir, grid)


def _oracle_means(folder: Path, labels: Path) -> dict[str, Any]:
    """The number of training edits of a part, and their mean scores by the oracle."""
    scores = LabelledEdits(open_edits(folder), labels).scores()
    return {"edits": len(scores), "means": dict(zip(PERSPECTIVES, scores.mean(0, float).tolist(), strict=True))}


def _parts_note(means: Mapping[str, Mapping[str, Any]]) -> str:
    found = [
        f"{part} {'/'.join(f'{mean:.2f}' for mean in of_part['means'].values())} ({of_part['edits']:,} edits)"
        for part, of_part in means.items()
    ]
    return f"The training edits themselves, by the oracle: {', '.join(found)}."
