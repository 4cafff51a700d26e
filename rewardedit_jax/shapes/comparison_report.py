"""What a comparison of editors reports: tables of scores, the brightness of dark scenes, a picture grid and a curve."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from rewardedit_jax.evaluation.experiments.experiment import Results as ResultFiles
from rewardedit_jax.evaluation.experiments.table import Key, Table, key_title
from rewardedit_jax.evaluation.experiments.table_files import save_if_possible
from rewardedit_jax.shapes.asked import IN_TABLE, LEVELS
from rewardedit_jax.shapes.dark_scenes import DARK, BrightnessError, brightness_error, untouched_backgrounds
from rewardedit_jax.shapes.editor_benchmark import BASELINE, FULL, NO_REWARD, Result, held_out_scenes, references
from rewardedit_jax.shapes.editor_report import Scores, TypeTable, make_table, make_type_table
from rewardedit_jax.shapes.examples import ShapesExample
from rewardedit_jax.shapes.picture_grid import Column, choose_rows, draw_grid
from rewardedit_jax.shapes.reward_curve import RewardCurve, draw_curve, make_curve

Results = Mapping[str, Sequence[Result]]  # arm → results of its seeds
_BEST, _WORST = IN_TABLE[0], IN_TABLE[-1]


def report_editors(
    workdir: Path,
    results: ResultFiles,
    count: int,
    *,
    baseline: Key = (BASELINE, NO_REWARD),
    every_arm: bool = False,
) -> tuple[Table, list[Path]]:
    """The table of scores, and grid.png and curve.png, which needs an arm with reward and matplotlib.

    Args:
      every_arm: whether the grid shows all arms, instead of one arm under all rewards of the table.
    """
    loaded, scenes = load_results(results), held_out_scenes(count)
    curve = curve_of(loaded, scenes)
    table = table_of(loaded, scenes, baseline).with_notes(curve=curve.to_json() if curve else None)
    return table, draw_pictures(workdir, grid_of(loaded, scenes, every_arm), curve)


def report_asked(workdir: Path, results: ResultFiles, count: int) -> tuple[Table, list[Path]]:
    """The table of scores under all rewards 5 to 0, on the first of the scenes; and grid.png and curve.png."""
    loaded, scenes = load_results(results), held_out_scenes(count)
    curve = curve_of(loaded, scenes)
    scores = {
        (curve.arm, label): of[:, : curve.scenes]
        for label, of in all_scores(loaded[curve.arm]).items()
        if label in LEVELS
    }
    ordered = {key: scores[key] for key in sorted(scores, reverse=True)}
    table = make_table(
        ordered, (curve.arm, _BEST), {"imperfect edits": references(scenes)["imperfect edits"][: curve.scenes]}
    )
    return table.with_notes(curve=curve.to_json()), draw_pictures(workdir, grid_of(loaded, scenes), curve)


def load_results(results: ResultFiles) -> dict[str, list[Result]]:
    return {arm: [Result.load(file.parent) for file in files] for arm, files in results.items()}


def table_of(results: Results, scenes: Sequence[ShapesExample], baseline: Key = (BASELINE, NO_REWARD)) -> Table:
    """The table of all arms under the rewards of the table, with dark scenes and edit types."""
    table = make_table(scores_of(results, (NO_REWARD, *IN_TABLE)), baseline, references(scenes))
    types, dark = types_of(results, scenes), dark_errors(results, scenes)
    errors = [{"arm": arm, "asked": asked, **error.to_json()} for (arm, asked), error in dark.items()]
    table = replace(table, further=(types.table(),))
    return table.with_notes(_dark_note(dark), types=types.to_json(), dark_scenes=errors)


def draw_pictures(workdir: Path, grid: UInt8[np.ndarray, "h w 3"], curve: RewardCurve | None = None) -> list[Path]:
    """Writes grid.png and curve.png; returns the files."""
    workdir.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid).save(file := workdir / "grid.png")
    return [file, *(save_if_possible(lambda: draw_curve(curve), workdir / "curve.png") if curve else [])]


def types_of(results: Results, scenes: Sequence[ShapesExample]) -> TypeTable:
    """The means by edit type, under the highest and the lowest reward only: the middle is in the other table."""
    return make_type_table(scores_of(results, (NO_REWARD, _BEST, _WORST)), [scene.edit_type for scene in scenes])


def scores_of(results: Results, labels: Sequence[str]) -> dict[Key, Scores]:
    """(arm, label) → scores of all seeds, for the labels that the arm has."""
    return {
        (arm, asked): np.stack([result.scores[asked] for result in of_seeds])
        for arm, of_seeds in results.items()
        for asked in labels
        if asked in of_seeds[0].scores
    }


def dark_errors(results: Results, scenes: Sequence[ShapesExample]) -> dict[Key, BrightnessError]:
    """(arm, label) → brightness error of dark scenes, without reward or under the highest one."""
    masks = untouched_backgrounds(scenes)
    return {
        (arm, asked): brightness_error([result.pictures[asked] for result in of_seeds], scenes, masks)
        for arm, of_seeds in results.items()
        for asked in (NO_REWARD, _BEST)
        if asked in of_seeds[0].pictures
    }


def _dark_note(errors: Mapping[Key, BrightnessError]) -> str:
    count = next(iter(errors.values())).scenes
    found = ", ".join(f"{key_title(name)} {error}" for name, error in errors.items())
    return (
        f"Dark scenes (mean brightness below {DARK}; {count} of them whose edit leaves the background): "
        f"mean brightness error of the untouched background: {found}."
    )


def grid_of(results: Results, scenes: Sequence[ShapesExample], every_arm: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """Pictures of the first seed: of arms without reward, and of one arm from the lowest to the highest reward.

    With `every_arm`, instead of the latter, all arms under the highest reward.

    The rows are the median scenes by the baseline's mean scores over seeds; without a baseline, by the scores of the
    highest reward.
    """
    rewarded = _rewarded_arm(results)
    shown = [(arm, NO_REWARD) for arm, of_seeds in results.items() if NO_REWARD in of_seeds[0].pictures]
    if every_arm:
        shown += [(arm, _BEST) for arm, of_seeds in results.items() if _BEST in of_seeds[0].pictures]
    elif rewarded:
        shown += [(rewarded, asked) for asked in reversed(IN_TABLE)]
    columns = [
        Column(key_title((arm, asked)), results[arm][0].pictures[asked], results[arm][0].scores[asked])
        for arm, asked in shown
    ]
    ranked_by = (BASELINE, NO_REWARD) if BASELINE in results else (rewarded, _BEST)
    ranking = np.stack([result.scores[ranked_by[1]] for result in results[ranked_by[0]]]).mean(0)
    name = f"the training {BASELINE}" if BASELINE in results else f'"{key_title(ranked_by)}"'
    return draw_grid(scenes, columns, choose_rows(scenes, ranking), name)


def _rewarded_arm(results: Results) -> str | None:
    """The arm with reward that pictures and curve show: the one with all parts, or else the first."""
    rewarded = [arm for arm, of_seeds in results.items() if _BEST in of_seeds[0].scores]
    return FULL if FULL in rewarded else next(iter(rewarded), None)


def curve_of(results: Results, scenes: Sequence[ShapesExample]) -> RewardCurve | None:
    """The curve of one arm with reward, beside the baseline and the imperfect edits; None without such an arm."""
    if not (arm := _rewarded_arm(results)):
        return None
    compared: dict[str, Float[np.ndarray, "seeds scenes 3"]] = {}
    if BASELINE in results:
        compared[BASELINE] = np.stack([result.scores[NO_REWARD] for result in results[BASELINE]])
    compared["imperfect edits"] = references(scenes)["imperfect edits"][None]
    return make_curve(arm, all_scores(results[arm]), compared)


def all_scores(results: Sequence[Result]) -> dict[str, Scores]:
    """Label → scores of all seeds. Rewards that are not in the table have the first of the scenes only."""
    labels = [*results[0].scores, *results[0].further]
    return {label: np.stack([{**r.scores, **r.further}[label] for r in results]) for label in labels}
