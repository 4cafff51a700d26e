"""Scored edits as people read them: a table from the best to the worst, and a sheet of pictures."""

import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from rewardedit_jax.data.images import read_image
from rewardedit_jax.evaluation.report import aligned
from rewardedit_jax.evaluation.sheets import FAINT, INK, PAPER
from rewardedit_jax.scoring.edit_score import EditScore, Gaussian, Unscorable
from rewardedit_jax.scoring.files import ScoreJob, to_json
from rewardedit_jax.scoring.scorer import Scorer
from rewardedit_jax.weights.files import write_json

Scored = tuple[ScoreJob, EditScore]

_HEADING = ("edited", "following", "quality", "overall", "improvement", "calibrated", "beats the next")
_SIDE, _MARGIN, _GAP, _LINE = 192, 20, 14, 16  # pixels
_CAPTION = 4 * _LINE  # under a picture: its name and three scores
_LETTERS = 30  # of a name that fit under a picture
MOST_ROWS, MOST_EDITS = 12, 6  # of a sheet


def report_scores(
    outcomes: Sequence[tuple[ScoreJob, EditScore | Unscorable]], json_file: Path | None, png_file: Path | None
) -> list[str]:
    """Prints the table and writes the files that are asked for.

    Args:
      outcomes: of every edit its score or its error, in the order that the JSON file keeps.
    Returns:
      A sentence for each edit that has no score.
    """
    if json_file:
        write_json([to_json(*outcome) for outcome in outcomes], json_file)
    ranked = best_first((job, outcome) for job, outcome in outcomes if isinstance(outcome, EditScore))
    if ranked:
        print(ranking_text(ranked))
    if ranked and png_file:
        png_file.parent.mkdir(parents=True, exist_ok=True)
        draw_ranking(ranked).save(png_file)
    return [f"{job.edited}: {outcome.reason}" for job, outcome in outcomes if isinstance(outcome, Unscorable)]


def best_first(scores: Iterable[Scored]) -> list[Scored]:
    """By the overall mean."""
    return sorted(scores, key=lambda scored: -scored[1].overall.mean)


def ranking_text(ranked: Sequence[Scored]) -> str:
    """The table, what "calibrated" means in it, and a sentence for each edit that was laid on white."""
    better = [f"{Scorer.prefer(a, b):.0%}" for (_, a), (_, b) in pairwise(ranked)] + [""]
    rows = [[job.edited, *_cells(score), won] for (job, score), won in zip(ranked, better, strict=True)]
    whites = [
        f"{job.edited}: transparent parts of {' and '.join(score.composited)} were laid on white."
        for job, score in ranked
        if score.composited
    ]
    stated = {score.calibration: f"calibrated: share of {score.calibration} that it beats." for _, score in ranked}
    stated.pop(None, None)
    return "\n".join([*aligned(list(_HEADING), rows), *stated.values(), *whites])


def _cells(score: EditScore) -> list[str]:
    numbers = ("" if number is None else f"{number:+.2f}" for number in (score.improvement, score.calibrated))
    return [*(_told(g) for g in (score.following, score.quality, score.overall)), *numbers]


def _told(gaussian: Gaussian | None) -> str:
    return f"{gaussian.mean:+.2f} ± {gaussian.std:.2f}" if gaussian else ""


def draw_ranking(ranked: Sequence[Scored]) -> Image.Image:
    """A row for each source and instruction: the source, then its edits from the best on, with their scores.

    The first `MOST_ROWS` sources, by their best edit, and the first `MOST_EDITS` edits of each.
    """
    rows: dict[tuple[str, str], list[Scored]] = {}
    for job, score in ranked:
        rows.setdefault((job.source, job.instruction), []).append((job, score))
    shown = {key: edits[:MOST_EDITS] for key, edits in list(rows.items())[:MOST_ROWS]}
    columns, pitch = 1 + max(map(len, shown.values())), _SIDE + _CAPTION + _GAP
    size = 2 * _MARGIN + columns * (_SIDE + _GAP) - _GAP, 2 * _MARGIN + len(shown) * pitch
    image = Image.new("RGB", size, PAPER)
    for row, ((source, instruction), edits) in enumerate(shown.items()):
        top = _MARGIN + row * pitch
        _place(image, 0, top, source, textwrap.wrap(instruction, _LETTERS, max_lines=3), INK)
        for column, (job, score) in enumerate(edits, 1):
            named = zip(
                ("overall", "following", "quality"), (score.overall, score.following, score.quality), strict=True
            )
            lines = [f"{name} {_told(g)}" for name, g in named if g]
            _place(image, column, top, job.edited, [Path(job.edited).name[-_LETTERS:], *lines], FAINT)
    return image


def _place(image: Image.Image, column: int, top: int, file: str, lines: Sequence[str], color: tuple) -> None:
    """A picture in its square and the lines under it. Small pictures are enlarged without smoothing."""
    left, picture = _MARGIN + column * (_SIDE + _GAP), read_image(file)
    small = 2 * max(picture.size) <= _SIDE
    fitted = ImageOps.contain(picture, (_SIDE, _SIDE), Image.Resampling.NEAREST if small else Image.Resampling.BICUBIC)
    image.paste(fitted, (left, top + _SIDE - fitted.height))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for i, line in enumerate(lines):
        draw.text((left, top + _SIDE + 4 + i * _LINE), line, INK if i == 0 else color, font)
