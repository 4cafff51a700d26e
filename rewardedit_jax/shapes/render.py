"""Draws a scene as a 32×32 RGB picture, anti-aliased from signed distances.

Axes: y down, x right; pixel centres lie at half-integers. Every cell is a tile of 16×16 pixels. Tiles are cached: the
few radii and offsets of `scene` allow only some hundred.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8

from rewardedit_jax.shapes.scene import BACKGROUNDS, COLORS, EFFECTS, Scene, Shape

SIZE = 32  # pixels
CELL = 16  # pixels
SUPERSAMPLING = 4  # samples per pixel along each axis

# Paper and ink of the styles that show outlines only.
DRAWINGS = {"sketch": ((0.96, 0.96, 0.96), (0.10, 0.10, 0.10)), "blueprint": ((0.08, 0.22, 0.60), (0.95, 0.95, 0.95))}
OUTLINE = (0.05, 0.05, 0.05)
SHADE = 0.22  # brightness of a texture's dark parts, relative to the colour of the shape
FLOOR = 0.68  # brightness of the bottom of a fading background and of the lower half of a split one


def render(scene: Scene) -> Float[np.ndarray, "32 32 3"]:
    """The picture, float32 in 0..1."""
    image = _background(scene.background, scene.fill).copy()  # the cached array must stay as it is
    if scene.style in DRAWINGS:
        image[:] = DRAWINGS[scene.style][0]
    for shape in scene.shapes:
        row, column = divmod(shape.cell, 2)
        tile = image[CELL * row : CELL * (row + 1), CELL * column : CELL * (column + 1)]
        _draw(tile, shape, scene.style)
    # Styles first, then light: an effect also tints a gray photo.
    if scene.style == "gray photo":
        image = to_gray(image)
    return with_effect(image, scene.effect) if scene.effect else image


def with_effect(image: Float[np.ndarray, "*batch 3"], effect: str) -> Float[np.ndarray, "*batch 3"]:
    """The image under the light or weather of `EFFECTS`."""
    gain, offset = EFFECTS[effect]
    return image * np.float32(gain) + np.float32(offset)


def to_gray(image: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Luma (the weights of ITU-R BT.601) in all three channels."""
    return np.repeat(image @ np.float32([[0.30], [0.59], [0.11]]), 3, axis=-1)


def to_uint8(image: Float[np.ndarray, "*batch 3"]) -> UInt8[np.ndarray, "*batch 3"]:
    """0..1 → 0..255, clipped and rounded."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _draw(tile: np.ndarray, shape: Shape, style: str | None) -> None:
    """Paints one shape over its cell, in place. Coverages are alpha values."""
    bright, dark, line = _coverage(shape.form, shape.texture, shape.radius, shape.dx, shape.dy)
    if style not in DRAWINGS:
        color = np.float32(COLORS[shape.color])
        tile *= 1 - bright - dark
        tile += (bright + SHADE * dark) * color
    if style in DRAWINGS or style == "cartoon":
        ink = DRAWINGS[style][1] if style in DRAWINGS else OUTLINE
        tile *= 1 - line
        tile += line * np.float32(ink)


@lru_cache(maxsize=32)
def _background(color: str, fill: str) -> np.ndarray:
    y = (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE
    shade = {"even": np.ones_like(y), "fading": 1 - (1 - FLOOR) * y, "split": np.where(y < 0.5, 1, FLOOR)}[fill]
    image = shade[:, None, None] * np.float32(BACKGROUNDS[color])
    return np.broadcast_to(image, (SIZE, SIZE, 3)).astype(np.float32)


@lru_cache(maxsize=4096)
def _coverage(form: str, texture: str, radius: float, dx: float, dy: float) -> tuple[np.ndarray, ...]:
    """Coverage of each pixel by a shape's bright parts, its dark parts and its outline: float32[16, 16, 1] each."""
    grid = (np.arange(CELL * SUPERSAMPLING) + 0.5) / SUPERSAMPLING
    y, x = np.meshgrid(grid, grid, indexing="ij")
    distance = _signed_distance(form, x - CELL / 2 - dx, y - CELL / 2 - dy, radius)
    inside, dark = distance < 0, _is_dark(texture, x, y)
    # The outline is 1.5 pixels wide and lies mostly inside, so that it stays in the cell.
    return tuple(_shrink(part) for part in (inside & ~dark, inside & dark, np.abs(distance + 0.4) < 0.75))


def _shrink(mask: np.ndarray) -> np.ndarray:
    """Averages the samples of each pixel."""
    blocks = mask.reshape(CELL, SUPERSAMPLING, CELL, SUPERSAMPLING)
    return blocks.mean(axis=(1, 3), dtype=np.float32)[..., None]


def _signed_distance(form: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Distance to the outline in pixels, negative inside. A triangle is twice its radius wide and high."""
    if form == "circle":
        return np.hypot(x, y) - radius
    if form == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.9 * radius
    # The maximum over the distances to the edges' lines; exact inside, and near enough at the anti-aliased outline.
    slope = np.hypot(2, 1)  # upright, 2 high on a base of 2: the length of the normal (2, 1) of its sides
    return np.maximum(y - radius, (2 * np.abs(x) - y - radius) / slope)


def _is_dark(texture: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mask of the texture's dark parts.

    Textures are fixed to the pixel grid, with a period that divides the cell, so that they do not depend on the offsets
    of a shape and the ideal edit is unambiguous.
    """
    if texture == "striped":
        return y % 4 >= 2
    if texture == "checkered":
        return (x // 4 + y // 4) % 2 >= 1
    if texture == "dotted":
        return np.hypot(x % 4 - 2, y % 4 - 2) < 1.3
    return np.zeros_like(x, dtype=bool)
