"""Arms of one recipe, trained over several seeds and scored on the same scenes: one table, one picture grid."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rewardedit_jax.shapes import ShapesExample, prepare_shapes
from rewardedit_jax.shapes.arms import ARMS, BASELINE, FULL, recipe
from rewardedit_jax.shapes.editor_benchmark import ASKED, NOTHING, held_out_scenes, references
from rewardedit_jax.shapes.pictures import Column, choose_rows, draw_grid
from rewardedit_jax.shapes.processes import Job, available_slots, last_lines, run_jobs
from rewardedit_jax.shapes.results import Result
from rewardedit_jax.shapes.tables import Table, make_table
from rewardedit_jax.weights.files import write_json

_RECORD = "comparison.json"


class JobsFailed(RuntimeError):
    """Trainings or their scoring failed; the message holds the ends of their logs."""


@dataclass(frozen=True)
class Comparison:
    """What is compared, and where its files lie."""

    config: str  # a recipe of the shapes world
    overrides: tuple[str, ...]  # "--config.field=value", for every arm
    arms: tuple[str, ...]
    seeds: int
    count: int  # held-out scenes
    workdir: Path
    launch: Path  # the folder of train.py and evaluate.py

    def job(self, arm: str, seed: int) -> Job:
        changes = (*self.overrides, *ARMS[arm], f"--config.seed={seed}")
        return Job(
            name=f"{arm}, seed {seed}",
            directory=self.workdir / arm.replace(" ", "-") / f"seed{seed}",
            launch=self.launch,
            training=(f"--config={self.config}", *changes),
            steps=recipe(self.config, changes).steps,
            count=self.count,
        )

    @property
    def jobs(self) -> list[Job]:
        """By seed, so that what is there after an interruption can be compared."""
        return [self.job(arm, seed) for seed in range(self.seeds) for arm in self.arms]

    def results(self) -> dict[str, list[Result]]:
        """Arm → result of each seed."""
        return {arm: [Result.load(self.job(arm, s).evaluation) for s in range(self.seeds)] for arm in self.arms}


def compare(comparison: Comparison) -> list[Path]:
    """Trains and scores what is not there yet, tells the table, and returns the files written.

    Raises:
      ValueError: if the recipe is not of the shapes world, or the directory holds another comparison.
      JobsFailed: after all other jobs are done.
    """
    jobs = comparison.jobs
    _prepare_data(comparison)
    _keep_apart(comparison)
    failed = run_jobs(jobs, available_slots(len(jobs)))
    if failed:
        raise JobsFailed("\n\n".join(f"{j.name} failed; the end of {j.log}:\n{last_lines(j.log)}" for j in failed))
    return write_report(comparison.workdir, comparison.results(), held_out_scenes(comparison.count))


def write_report(workdir: Path, results: Mapping[str, Sequence[Result]], scenes: Sequence[ShapesExample]) -> list[Path]:
    """Prints the table and writes it as table.txt, .md and .json, with grid.png, which shows the first seed."""
    table = table_of(results, scenes)
    files = [workdir / name for name in ("table.txt", "table.md", "table.json", "grid.png")]
    files[0].write_text(table.to_text() + "\n")
    files[1].write_text(table.to_markdown() + "\n")
    write_json(table.to_json(), files[2])
    Image.fromarray(grid_of({arm: of_seeds[0] for arm, of_seeds in results.items()}, scenes)).save(files[3])
    print(table.to_text())
    return files


def table_of(results: Mapping[str, Sequence[Result]], scenes: Sequence[ShapesExample]) -> Table:
    scores = {
        (arm, asked): np.stack([result.scores[asked] for result in of_seeds])
        for arm, of_seeds in results.items()
        for asked in of_seeds[0].scores
    }
    return make_table(scores, (BASELINE, NOTHING), references(scenes))


def grid_of(results: Mapping[str, Result], scenes: Sequence[ShapesExample]) -> UInt8[np.ndarray, "h w 3"]:
    """Without reward where that was trained; of the arms with reward one, from the lowest to the highest reward."""
    columns = []
    if BASELINE in results:
        columns.append(_column(BASELINE, results[BASELINE], NOTHING))
    rewarded = [arm for arm in results if arm != BASELINE]
    if rewarded:
        shown = FULL if FULL in rewarded else rewarded[0]
        columns += [_column(f"{shown} {asked}", results[shown], asked) for asked in reversed(ASKED)]
    return draw_grid(scenes, columns, choose_rows(scenes))


def _column(title: str, result: Result, asked: str) -> Column:
    return Column(title, result.pictures[asked], result.scores[asked])


def _prepare_data(comparison: Comparison) -> None:
    """Made once, before several trainings would make it at the same time."""
    data = recipe(comparison.config, comparison.overrides).data
    if data.name != "shapes":
        raise ValueError(f"{comparison.config} trains on {data.name}; the oracle judges the shapes world only")
    print(f"data: {prepare_shapes(data.root, train=data.train, test=data.test)}", file=sys.stderr)


def _keep_apart(comparison: Comparison) -> None:
    """Records the recipe, and refuses a directory whose results come from another one."""
    file = comparison.workdir / _RECORD
    now = {"config": comparison.config, "overrides": list(comparison.overrides)}
    if file.exists() and (before := json.loads(file.read_text())) != now:
        raise ValueError(f"{comparison.workdir} holds a comparison of {before}, not of {now}: give another directory")
    write_json(now, file)
