"""Scored edits for people: a table from the best edit to the worst, and a sheet of their pictures."""

import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from PIL import Image

from rewardedit_jax.data.images import ImageError, read_image
from rewardedit_jax.evaluation.report import aligned, plus_minus
from rewardedit_jax.evaluation.sheets import CAPTION_LINE, INK, Sheet
from rewardedit_jax.listing import count_noun, list_lines
from rewardedit_jax.scoring.edit_score import EditScore, Gaussian, Unscorable
from rewardedit_jax.scoring.files import ScoreJob, to_json
from rewardedit_jax.scoring.scorer import Scorer
from rewardedit_jax.weights.files import write_json

Scored = tuple[ScoreJob, EditScore]

MAX_ROWS, MAX_EDITS = 12, 6  # of a sheet: what fits on a screen
_HEADING = ("edited", "following", "quality", "overall", "improvement", "calibrated", "beats the next")
_SIDE, _GAP = 192, 14  # pixels
_CAPTION_LINES = 4  # file name and three scores
_LETTERS = 30  # that fit in a caption line of width _SIDE


def report_scores(
    outcomes: Sequence[tuple[ScoreJob, EditScore | Unscorable]], json_file: Path | None, png_file: Path | None
) -> list[str]:
    """Prints the table, writes the files that are given, and returns a sentence for each edit without a score."""
    if json_file:
        write_json([to_json(*outcome) for outcome in outcomes], json_file)
    ranked = best_first((job, outcome) for job, outcome in outcomes if isinstance(outcome, EditScore))
    if ranked:
        print(ranking_text(ranked))
    faults = [f"{job.edited}: {outcome.reason}" for job, outcome in outcomes if isinstance(outcome, Unscorable)]
    if ranked and png_file:
        try:
            png_file.parent.mkdir(parents=True, exist_ok=True)
            draw_ranking(ranked).save(png_file)
        except (OSError, ImageError) as error:
            unscored = list_lines(f"{count_noun(len(faults), 'edit')} without a score", faults)
            raise OSError(f"{png_file} was not drawn: {error}\n{unscored}") from error
    return faults


def best_first(scores: Iterable[Scored]) -> list[Scored]:
    """The edits sorted by their overall mean, highest first."""
    return sorted(scores, key=lambda scored: -scored[1].overall.mean)


def ranking_text(ranked: Sequence[Scored]) -> str:
    """The table, what "calibrated" means in it, and a sentence for each edit that was composited on white."""
    # Adjacent edits only: the probability that a row beats the row below it.
    beats_next = [f"{Scorer.prefer(a, b):.0%}" for (_, a), (_, b) in pairwise(ranked)] + [""]
    rows = [[job.edited, *_cells(score), share] for (job, score), share in zip(ranked, beats_next, strict=True)]
    references = dict.fromkeys(score.calibration for _, score in ranked if score.calibration is not None)
    notes = [f"calibrated: share of {reference} with a lower score." for reference in references]
    notes += [
        f"{job.edited}: transparent parts of {' and '.join(score.composited)} were composited on white."
        for job, score in ranked
        if score.composited
    ]
    return "\n".join([*aligned(_HEADING, rows), *notes])


def _cells(score: EditScore) -> list[str]:
    numbers = ("" if number is None else f"{number:+.2f}" for number in (score.improvement, score.calibrated))
    return [*map(_mean_and_std, (score.following, score.quality, score.overall)), *numbers]


def _mean_and_std(gaussian: Gaussian | None) -> str:
    return plus_minus(gaussian.mean, gaussian.std, "+.2f") if gaussian else ""


def draw_ranking(ranked: Sequence[Scored]) -> Image.Image:
    """A sheet with a row for each source and instruction: the source, then its edits from the best to the worst.

    It shows the `MAX_ROWS` sources with the best edits, and the `MAX_EDITS` best edits of each.
    """
    rows: dict[tuple[str, str], list[Scored]] = {}
    for job, score in ranked:
        rows.setdefault((job.source, job.instruction), []).append((job, score))
    shown = {key: edits[:MAX_EDITS] for key, edits in list(rows.items())[:MAX_ROWS]}
    columns = 1 + max(map(len, shown.values()))
    sheet = Sheet(len(shown), columns, _SIDE, gap=_GAP, caption=CAPTION_LINE * _CAPTION_LINES)
    for row, ((source, instruction), edits) in enumerate(shown.items()):
        lines = textwrap.wrap(instruction, _LETTERS, max_lines=_CAPTION_LINES - 1)
        sheet.picture(row, 0, read_image(source), lines, INK)
        for column, (job, score) in enumerate(edits, 1):
            sheet.picture(row, column, read_image(job.edited), _caption(job, score))
    return sheet.image


def _caption(job: ScoreJob, score: EditScore) -> list[str]:
    # The overall score first: edits are sorted by it.
    scores = {"overall": score.overall, "following": score.following, "quality": score.quality}
    lines = [f"{name} {_mean_and_std(gaussian)}" for name, gaussian in scores.items() if gaussian]
    return [Path(job.edited).name[-_LETTERS:], *lines]
