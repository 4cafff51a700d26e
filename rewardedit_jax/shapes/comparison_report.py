"""What a comparison of editors writes: tables of scores, the brightness of dark scenes, a picture grid and a curve."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from rewardedit_jax.evaluation.charts import save_figure
from rewardedit_jax.shapes.asked import IN_TABLE
from rewardedit_jax.shapes.dark_scenes import DARK, BrightnessError, brightness_error, untouched_backgrounds
from rewardedit_jax.shapes.editor_benchmark import BASELINE, FULL, NO_REWARD, Result, held_out_scenes, references
from rewardedit_jax.shapes.editor_report import EditorTable, Scores, TypeTable, make_table, make_type_table
from rewardedit_jax.shapes.examples import ShapesExample
from rewardedit_jax.shapes.picture_grid import Column, choose_rows, draw_grid
from rewardedit_jax.shapes.reward_curve import RewardCurve, draw_curve, make_curve
from rewardedit_jax.weights.files import write_json

Results = Mapping[str, Sequence[Result]]  # arm → results of its seeds
_BEST, _WORST = IN_TABLE[0], IN_TABLE[-1]


def report_editors(workdir: Path, results: Mapping[str, Sequence[Path]], count: int) -> list[Path]:
    """Prints the tables, writes table.txt, .md and .json, grid.png and curve.png, and returns the files written.

    The curve needs an arm with reward, and matplotlib.
    """
    loaded = {arm: [Result.load(file.parent) for file in files] for arm, files in results.items()}
    scenes = held_out_scenes(count)
    text, markdown, fields = _tables(loaded, scenes)
    curve = curve_of(loaded, scenes)
    files = [workdir / name for name in ("table.txt", "table.md", "table.json", "grid.png")]
    files[0].write_text(text + "\n", "utf-8")
    files[1].write_text(markdown + "\n", "utf-8")
    write_json({**fields, "curve": curve.to_json() if curve else None}, files[2])
    Image.fromarray(grid_of(loaded, scenes)).save(files[3])
    print(text)
    return [*files, *(_save_curve(curve, workdir / "curve.png") if curve else [])]


def _tables(results: Results, scenes: Sequence[ShapesExample]) -> tuple[str, str, dict[str, Any]]:
    """The table of all scenes with the note on dark ones, then the table by type: as text, Markdown and JSON fields."""
    table, types, dark = table_of(results, scenes), types_of(results, scenes), dark_errors(results, scenes)
    note, by_type = _dark_note(dark), types.table()
    text = "\n".join([table.to_text(), note, "", by_type.to_text()])
    # Markdown needs an empty line before a table.
    markdown = "\n\n".join([f"{table.to_markdown()}\n{note}", by_type.to_markdown()])
    errors = [{"arm": arm, "asked": asked, **error.to_json()} for (arm, asked), error in dark.items()]
    return text, markdown, {**table.to_json(), "types": types.to_json(), "dark_scenes": errors}


def table_of(results: Results, scenes: Sequence[ShapesExample]) -> EditorTable:
    """The table of all arms under the rewards of the table."""
    return make_table(_scores(results, (NO_REWARD, *IN_TABLE)), (BASELINE, NO_REWARD), references(scenes))


def types_of(results: Results, scenes: Sequence[ShapesExample]) -> TypeTable:
    """The means by edit type, under the highest and the lowest reward only: the middle is in the other table."""
    return make_type_table(_scores(results, (NO_REWARD, _BEST, _WORST)), [scene.edit_type for scene in scenes])


def _scores(results: Results, labels: Sequence[str]) -> dict[tuple[str, str], Scores]:
    """(arm, label) → scores of all seeds, for the labels that the arm has."""
    return {
        (arm, asked): np.stack([result.scores[asked] for result in of_seeds])
        for arm, of_seeds in results.items()
        for asked in labels
        if asked in of_seeds[0].scores
    }


def dark_errors(results: Results, scenes: Sequence[ShapesExample]) -> dict[tuple[str, str], BrightnessError]:
    """(arm, label) → brightness error of dark scenes, without reward or under the highest one."""
    masks = untouched_backgrounds(scenes)
    return {
        (arm, asked): brightness_error([result.pictures[asked] for result in of_seeds], scenes, masks)
        for arm, of_seeds in results.items()
        for asked in (NO_REWARD, _BEST)
        if asked in of_seeds[0].pictures
    }


def _dark_note(errors: Mapping[tuple[str, str], BrightnessError]) -> str:
    count = next(iter(errors.values())).scenes
    found = ", ".join(f"{_title(*name)} {error}" for name, error in errors.items())
    return (
        f"Dark scenes (mean brightness below {DARK}; {count} of them whose edit leaves the background): "
        f"mean brightness error of the untouched background: {found}."
    )


def _title(arm: str, asked: str) -> str:
    return arm if asked == NO_REWARD else f"{arm} {asked}"


def grid_of(results: Results, scenes: Sequence[ShapesExample]) -> UInt8[np.ndarray, "h w 3"]:
    """Pictures of the first seed: of the baseline, and of one arm with reward from the lowest to the highest reward.

    The rows are the median scenes by the baseline's mean scores over seeds; without a baseline, by the scores of the
    highest reward.
    """
    rewarded = _rewarded_arm(results)
    shown = [(BASELINE, NO_REWARD)] if BASELINE in results else []
    shown += [(rewarded, asked) for asked in reversed(IN_TABLE)] if rewarded else []
    columns = [
        Column(_title(arm, asked), results[arm][0].pictures[asked], results[arm][0].scores[asked])
        for arm, asked in shown
    ]
    ranked_by = (BASELINE, NO_REWARD) if BASELINE in results else (rewarded, _BEST)
    ranking = np.stack([result.scores[ranked_by[1]] for result in results[ranked_by[0]]]).mean(0)
    name = f"the training {BASELINE}" if BASELINE in results else f'"{_title(*ranked_by)}"'
    return draw_grid(scenes, columns, choose_rows(scenes, ranking), name)


def _rewarded_arm(results: Results) -> str | None:
    """The arm with reward that pictures and curve show: the one with all parts, or else the first."""
    rewarded = [arm for arm in results if arm != BASELINE]
    return FULL if FULL in rewarded else next(iter(rewarded), None)


def curve_of(results: Results, scenes: Sequence[ShapesExample]) -> RewardCurve | None:
    """The curve of one arm with reward, beside the baseline and the imperfect edits; None without such an arm."""
    if not (arm := _rewarded_arm(results)):
        return None
    labels = [*results[arm][0].scores, *results[arm][0].further]
    scores = {label: np.stack([{**r.scores, **r.further}[label] for r in results[arm]]) for label in labels}
    compared: dict[str, Float[np.ndarray, "seeds scenes 3"]] = {}
    if BASELINE in results:
        compared[BASELINE] = np.stack([result.scores[NO_REWARD] for result in results[BASELINE]])
    compared["imperfect edits"] = references(scenes)["imperfect edits"][None]
    return make_curve(arm, scores, compared)


def _save_curve(curve: RewardCurve, file: Path) -> list[Path]:
    """The file, or nothing if matplotlib is missing: tables and grid are worth having without it."""
    try:
        save_figure(draw_curve(curve), file)
    except ImportError as error:
        print(f"{file.name} is not drawn: {error}", file=sys.stderr)
        return []
    return [file]
