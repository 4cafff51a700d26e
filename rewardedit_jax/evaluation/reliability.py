"""Whether stated probabilities come true: reliability curve, expected calibration error, and their picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from rewardedit_jax.evaluation.sheets import FAINT, INK, PAPER, RULE

BINS = 10
_SIDE, _MARGIN, _LEFT = 360, 24, 64  # pixels
_LINE = (58, 110, 190)

Bin = tuple[float, float, int]  # mean stated probability, share that came true, number


def reliability(told: Float[np.ndarray, " n"], true: Float[np.ndarray, " n"], low: float = 0.5) -> list[Bin]:
    """Bins of equal width from `low` to 1 that hold anything, lowest first.

    Args:
      told: stated probabilities, low..1.
      true: how far each came true: 0 or 1, or 1/2 where nobody can tell.
    """
    at = np.clip(((told - low) / (1 - low) * BINS).astype(int), 0, BINS - 1)
    held = [at == i for i in range(BINS) if (at == i).any()]
    return [(float(told[here].mean()), float(true[here].mean()), int(here.sum())) for here in held]


def expected_calibration_error(told: Float[np.ndarray, " n"], true: Float[np.ndarray, " n"]) -> float:
    """Mean distance between what bins state and what comes true, weighted by their size (Guo et al. 2017)."""
    return sum(abs(stated - share) * n for stated, share, n in reliability(told, true)) / len(told)


def draw_reliability(bins: Sequence[Bin], title: str, low: float = 0.5) -> Image.Image:
    """The curve beside the diagonal of perfect calibration; a dot's area grows with the number of its bin."""
    image = Image.new("RGB", (_LEFT + _SIDE + _MARGIN, _SIDE + 4 * _MARGIN), PAPER)
    draw = ImageDraw.Draw(image)
    bold, small = ImageFont.load_default(15), ImageFont.load_default(12)
    top, bottom = 2 * _MARGIN, 2 * _MARGIN + _SIDE

    def at(stated: float, share: float) -> tuple[float, float]:
        return _LEFT + (stated - low) / (1 - low) * _SIDE, bottom - share * _SIDE

    draw.text((_LEFT, _MARGIN // 2), title, INK, bold)
    draw.rectangle((_LEFT, top, _LEFT + _SIDE, bottom), outline=RULE)
    draw.line((*at(low, low), *at(1.0, 1.0)), FAINT, 1)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        draw.text((_LEFT - 34, at(low, tick)[1] - 7), f"{tick:.2f}", FAINT, small)
    for tick in np.linspace(low, 1, 6):
        draw.text((at(float(tick), 0.0)[0] - 12, bottom + 6), f"{tick:.2f}", FAINT, small)
    draw.text((_LEFT, bottom + 24), "stated probability; up: share that came true", FAINT, small)
    points = [at(stated, share) for stated, share, _ in bins]
    if len(points) > 1:
        draw.line([xy for point in points for xy in point], _LINE, 2)
    most = max(n for *_, n in bins)
    for (x, y), (*_, n) in zip(points, bins, strict=True):
        radius = 2 + 8 * (n / most) ** 0.5
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), _LINE)
    return image


def save_reliability(bins: Sequence[Bin], title: str, file: Path) -> None:
    """Writes the picture, in a directory made where it lacks."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draw_reliability(bins, title).save(file)
