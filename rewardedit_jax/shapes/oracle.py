"""The oracle judge: scores an output picture against source and ideal edit, in the three perspectives, 0..5.

- **following**, where the ideal differs from the source: the change made is split into its part along the wanted change
  and the rest. Half the change scores half; a change across the wanted direction (another colour) costs its length.
  For an edit of the whole picture the worst cell is left out: single objects belong to preserving.
- **preserving**, where the ideal equals the source: root-mean-square (rms) difference, with a weight on the worst 8×8
  patches. An edit of the whole picture has no such place; there the output has to lie between the source and a picture
  of the same layout.
- **quality**, from the output alone: uniform regions must be free of noise and mottling, and edges sharp.

Errors of about 0.01 (8-bit rounding, an autoencoder) cost next to nothing. tests/shapes/test_oracle.py states what the
constants are calibrated against: ideals, unchanged sources, noise, half edits, an autoencoder's error, wrong colours.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import maximum_filter

from rewardedit_jax.shapes.render import to_gray, with_effect
from rewardedit_jax.shapes.scene import EFFECTS

Image = UInt8[np.ndarray, "32 32 3"] | Float[np.ndarray, "32 32 3"]
Images = UInt8[np.ndarray, "n 32 32 3"] | Float[np.ndarray, "n 32 32 3"]
# Channels first inside this module: sums over channels then run along whole rows of memory.
Planes = Float[np.ndarray, "n c h w"]
Scores = Float[np.ndarray, " n"]

WHOLE_PICTURE = ("global", "style")  # edits that change every region
YES = 3.0  # the lowest score that counts as "yes"

_CHUNK = 64  # pictures per block, so that intermediate arrays stay in the processor's cache
_PATCH = 8  # pixels; four patches are a cell
# Colour values lie in 0..1.
_CHANGED = 0.03  # a pixel belongs to the edit if source and ideal differ by more
_FOLLOWING_TOLERANCE = 0.03  # rms error in the edited region without cost
# Change across the wanted one without cost, as a share of its length: the rest of noise, blocks and soft outlines.
_ACROSS_FREE = 0.15
_TINT_FREE = 0.10  # the same for the part of it that is uniform over a patch
# (full score up to, none from)
_DIFFERENCE = (0.04, 0.36)  # rms
_NOISE = (0.028, 0.25)  # second difference over one pixel
_MOTTLING = (0.008, 0.056)  # second difference over two pixels, after a blur
_SOFTNESS = (0.10, 0.55)  # share of an edge's steepness, see `_softness`


class OracleScores(NamedTuple):
    """Scores 0..5 of one output, and for each whether it reaches `YES`."""

    following: float
    preserving: float
    quality: float
    yes: tuple[bool, bool, bool]


def judge(output: Image, source: Image, ideal: Image, edit_type: str) -> OracleScores:
    """Scores of one output. Pictures: uint8, or float in 0..1."""
    scores = judge_batch(output[None], source[None], ideal[None], [edit_type])[0]
    return OracleScores(*scores.tolist(), yes=tuple((scores >= YES).tolist()))


def judge_batch(
    outputs: Images, sources: Images, ideals: Images, edit_types: Sequence[str]
) -> Float[np.ndarray, "n 3"]:
    """Scores 0..5 as float32, in the order following, preserving, quality. Pictures: uint8, or float in 0..1."""
    whole = np.isin(np.asarray(edit_types), WHOLE_PICTURE)
    scores = np.empty((len(outputs), 3), np.float32)
    for is_whole, judge_some in ((False, _judge_regions), (True, _judge_whole)):
        chosen = np.flatnonzero(whole == is_whole)
        for start in range(0, len(chosen), _CHUNK):
            chunk = chosen[start : start + _CHUNK]
            output, source, ideal = (_planes(images[chunk]) for images in (outputs, sources, ideals))
            followed, preserved = judge_some(output, source, ideal)
            scores[chunk] = 5 * np.stack([followed, preserved, _quality(output)], axis=-1)
    return scores


def _judge_regions(output: Planes, source: Planes, ideal: Planes) -> tuple[Scores, Scores]:
    """Following and preserving of edits that leave a part of the picture unchanged."""
    edited = np.abs(ideal - source).max(1) > _CHANGED
    # One region: the sums of its patches are added up.
    followed, _ = _followed(_change_sums(output, source, ideal, edited).sum(2, keepdims=True))
    return followed[:, 0], _preserved_rest(output, source, edited)


def _judge_whole(output: Planes, source: Planes, ideal: Planes) -> tuple[Scores, Scores]:
    """Following and preserving of edits of the whole picture."""
    edited = np.abs(ideal - source).max(1) > _CHANGED
    followed, weight = _followed(_change_sums(output, source, ideal, edited))
    rest = weight.copy()
    np.put_along_axis(rest, np.argsort(followed, axis=1)[:, :4], 0, axis=1)  # the worst cell is four patches
    # An edit that changes little outside these four patches is scored on all of them.
    enough = rest.sum(1, keepdims=True) > 0.4 * weight.sum(1, keepdims=True)
    weight = np.where(enough, rest, weight)
    return (followed * weight).sum(1) / weight.sum(1), _preserved_layout(output, source, ideal)


def _change_sums(
    output: Planes, source: Planes, ideal: Planes, edited: Bool[np.ndarray, "n h w"]
) -> Float[np.ndarray, "n 10 p"]:
    """Sums over the edited part of each patch: |wanted|², wanted · made, |made|², area, and both changes (RGB)."""
    # Masked before the blur too: an unrequested change of the background must not leak in.
    mask = edited[:, None]
    wanted, made = (_blur(_blur((image - source) * mask)) * mask for image in (ideal, output))
    products = [(a * b).sum(1, keepdims=True) for a, b in ((wanted, wanted), (wanted, made), (made, made))]
    sums = np.concatenate([*products, mask, wanted, made], axis=1)
    return _patch_sum(sums.reshape(-1, *edited.shape[1:])).reshape(len(output), 10, -1)


def _followed(sums: Float[np.ndarray, "n 10 p"]) -> tuple[Float[np.ndarray, "n p"], Float[np.ndarray, "n p"]]:
    """1 − |1 − along| − across − tint, in lengths of the wanted change; and its squared length, the weight of a patch.

    The tint is the uniform part of `across`: a wrong colour, since noise and soft outlines cancel out in the sum.
    """
    wanted2, both, made2, area = sums[:, :4].swapaxes(0, 1)
    wanted2 = wanted2 + 1e-6  # patches outside the edit have none
    along = both / wanted2
    across = np.sqrt(np.maximum(made2 / wanted2 - along**2, 0))
    tint2 = ((sums[:, 7:] - along[:, None] * sums[:, 4:7]) ** 2).sum(1) / np.maximum(area, 1)
    tint = np.sqrt(tint2 / wanted2)
    # An absolute error, hence a larger share of a faint wanted change; at most a fifth.
    tolerance = np.minimum(_FOLLOWING_TOLERANCE * np.sqrt(3 * area / wanted2), 0.2)
    cost = np.abs(1 - along) + np.maximum(across - _ACROSS_FREE, 0) + np.maximum(tint - _TINT_FREE, 0)
    return _ramp(cost, tolerance, 1), wanted2


def _preserved_rest(output: Planes, source: Planes, edited: Bool[np.ndarray, "n h w"]) -> Scores:
    """Preserving outside the edited region, from the difference to the source."""
    outside = ~maximum_filter(edited, size=(1, 5, 5))  # two blurs carry the edit two pixels out
    difference = _blur(_blur(output - source))
    area = _patch_sum(outside)
    squares = _patch_sum((difference**2).sum(1) * outside)
    return _ramp(_difference(squares / 3, area), *_DIFFERENCE)


def _preserved_layout(output: Planes, source: Planes, ideal: Planes) -> Scores:
    """How well the output fits a mixture of the source and a picture of the same layout; the best fit counts.

    Pictures of the same layout are the ideal and the source under each effect: a sunset in place of a night fails
    following, not preserving. Differences weigh more if the fitted picture has little contrast.
    """
    colors = source.transpose(0, 2, 3, 1)
    others = [with_effect(colors, effect) for effect in EFFECTS] + [to_gray(colors)]
    goals = np.concatenate([ideal, *(other.transpose(0, 3, 1, 2) for other in others)])
    output, source = (np.concatenate([images] * (1 + len(others))) for images in (output, source))
    fit = source + _share(output - source, goals - source) * (goals - source)
    contrast = fit.std((2, 3)).mean(1) / (source.std((2, 3)).mean(1) + 1e-6)
    squares = _patch_sum((_blur(output - fit) ** 2).mean(1))
    difference = _difference(squares, np.full_like(squares, _PATCH**2)) / np.clip(contrast, 0.4, 1)
    return _ramp(difference.reshape(1 + len(others), -1).min(0), *_DIFFERENCE)


def _share(made: Planes, wanted: Planes) -> Float[np.ndarray, "n 1 1 1"]:
    """The share 0..1 of the wanted change that was made. It is a median over pixels, robust to single objects."""
    length2 = (wanted**2).sum(1)
    # Pixels with hardly a wanted change have no share; as infinities they sort to the end.
    shares = np.where(length2 > 0.01, (made * wanted).sum(1) / np.maximum(length2, 0.01), np.inf)
    shares = np.sort(shares.reshape(len(shares), -1), axis=1)
    counted = np.isfinite(shares).sum(1)
    median = shares[np.arange(len(shares)), np.maximum(counted - 1, 0) // 2]
    return np.clip(np.where(counted > 0, median, 0), 0, 1)[:, None, None, None]


def _quality(output: Planes) -> Scores:
    """The lowest of three scores: noise, mottling and softness."""
    # Low quantiles, so that only uniform regions count, not shapes and textures.
    noise = _quantile(_curvature(output, 1), 0.4)
    mottling = _quantile(_curvature(_blur(output), 2), 0.16)
    scores = _ramp(noise, *_NOISE), _ramp(mottling, *_MOTTLING), _ramp(_softness(output), *_SOFTNESS)
    return np.minimum.reduce(scores)


def _curvature(x: Planes, lag: int) -> Float[np.ndarray, "n h2 w2"]:
    """|second difference|, maximum over channels, minimum over four directions: 0 along straight edges."""
    size = x.shape[2] - 2 * lag
    centre = 2 * x[:, :, lag:-lag, lag:-lag]

    def across(dy: int, dx: int) -> np.ndarray:
        first, last = ((lag + sign * dy * lag, lag + sign * dx * lag) for sign in (-1, 1))
        ends = (x[:, :, top : top + size, left : left + size] for top, left in (first, last))
        return np.abs(sum(ends) - centre).max(1)

    return np.minimum(np.minimum(across(0, 1), across(1, 0)), np.minimum(across(1, 1), across(1, -1)))


def _softness(x: Planes) -> Scores:
    """Share of the edges' steepness that three consecutive steps have in common.

    An anti-aliased edge takes two steps at most, so a sharp picture has none. Of the two axes only the one with the
    larger rise counts at a pixel, since along an edge every change is slow.
    """
    down, right = _three_steps(x), _three_steps(x.swapaxes(2, 3))
    (shared_y, steep_y, rise_y), (shared_x, steep_x, rise_x) = (
        [part[..., 1:-2] for part in down],
        [part[..., 1:-2].swapaxes(2, 3) for part in right],
    )
    is_y = (rise_y > rise_x) & (rise_y > 0.1)
    is_x = (rise_x >= rise_y) & (rise_x > 0.1)
    shared = (shared_y * is_y).sum((1, 2, 3)) + (shared_x * is_x).sum((1, 2, 3))
    return shared / ((steep_y * is_y).sum((1, 2, 3)) + (steep_x * is_x).sum((1, 2, 3)) + 1e-3)


def _three_steps(x: Planes):
    """Of three consecutive steps along axis 2: the smallest (0 unless all have one sign), the middle one, their sum."""
    step = x[:, :, 1:] - x[:, :, :-1]
    a, b, c = step[:, :, :-2], step[:, :, 1:-1], step[:, :, 2:]
    rising = np.minimum(np.minimum(a, b), c)
    falling = np.maximum(np.maximum(a, b), c)
    return np.maximum(np.maximum(rising, -falling), 0), np.abs(b), np.abs(a + b + c)


def _planes(images: Images) -> Planes:
    """The images as float32 in 0..1, channels first."""
    scale = 255 if images.dtype == np.uint8 else 1
    return np.clip(np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(scale), 0, 1)


def _ramp(x, full, none):
    """1 up to `full`, 0 from `none`, linear in between."""
    return np.clip((none - x) / (none - full), 0, 1)


def _quantile(x: Float[np.ndarray, "n h w"], q: float) -> Scores:
    flat = x.reshape(len(x), -1)
    rank = int(q * (flat.shape[1] - 1))
    return np.partition(flat, rank, axis=1)[:, rank]


def _difference(squares: Float[np.ndarray, "n p"], area: Float[np.ndarray, "n p"]) -> Scores:
    """0.7 of the rms of the two worst patches plus 0.3 of that of all: a lost object costs much, a lost scene more."""
    # Patches with fewer than four pixels outside the edit do not count, unless no patch has more.
    enough = area >= np.minimum(4, area.max(1, keepdims=True))
    patches = np.where(enough, squares / np.maximum(area, 1), 0)
    overall = np.sqrt(squares.sum(1) / np.maximum(area.sum(1), 1))
    return 0.7 * np.sqrt(np.sort(patches, axis=1)[:, -2:].mean(1)) + 0.3 * overall


def _patch_sum(x: np.ndarray) -> Float[np.ndarray, "n p"]:
    """Sums over 8×8 patches: [n, 32, 32] → [n, 16]."""
    n, height, width = x.shape
    patches = x.reshape(n, height // _PATCH, _PATCH, width // _PATCH, _PATCH)
    return patches.sum((2, 4), dtype=np.float32).reshape(n, -1)


def _blur(x: Planes) -> Planes:
    """Convolution with [1 2 1] / 4 along both image axes; border pixels repeat."""
    wide = np.concatenate([x[:, :, :1], x, x[:, :, -1:]], axis=2)
    x = 0.25 * (wide[:, :, :-2] + wide[:, :, 2:]) + 0.5 * x
    wide = np.concatenate([x[..., :1], x, x[..., -1:]], axis=3)
    return 0.25 * (wide[..., :-2] + wide[..., 2:]) + 0.5 * x
