"""What a scene is: up to four coloured, textured shapes, one to a cell of a 2×2 grid, on a background.

A scene is a value; editing it gives another scene, and `render` draws either. Geometry is quantised, so that drawing is
looking up tiles, and every shape stays inside its own 16×16 cell.
"""

from dataclasses import dataclass, replace

import numpy as np

SHAPES = ("circle", "square", "triangle")
COLORS = {
    "red": (0.90, 0.08, 0.08),
    "green": (0.08, 0.65, 0.12),
    "blue": (0.10, 0.20, 0.95),
    "yellow": (1.00, 0.90, 0.10),
    "purple": (0.75, 0.10, 0.85),
    "cyan": (0.10, 0.85, 0.95),
}
TEXTURES = ("plain", "striped", "dotted", "checkered")
BACKGROUNDS = {
    "white": (0.95, 0.95, 0.95),
    "gray": (0.52, 0.52, 0.52),
    "black": (0.07, 0.07, 0.07),
    "brown": (0.45, 0.27, 0.12),
    "pink": (1.00, 0.62, 0.70),
    "mint": (0.60, 0.92, 0.72),
}
FILLS = ("even", "fading", "split")
PLACES = ("top left", "top right", "bottom left", "bottom right")  # the name of each cell, row by row
RADII = (6.0, 6.5, 7.0)
OFFSETS = (-0.5, 0.0, 0.5)


@dataclass(frozen=True)
class Shape:
    """One shape. `cell` counts the 2×2 grid row by row; radius and offsets from the cell's centre are in pixels."""

    form: str
    color: str
    texture: str = "plain"
    cell: int = 0
    radius: float = 6.5
    dx: float = 0.0
    dy: float = 0.0


@dataclass(frozen=True)
class Scene:
    """All that a picture shows. No two shapes share a colour, so "the red circle" is never ambiguous."""

    background: str
    fill: str
    shapes: tuple[Shape, ...]
    effect: str | None = None  # weather or light over the whole picture
    style: str | None = None  # how the picture is made

    def free_cells(self) -> list[int]:
        taken = {shape.cell for shape in self.shapes}
        return [cell for cell in range(len(PLACES)) if cell not in taken]

    def free_colors(self) -> list[str]:
        taken = {shape.color for shape in self.shapes}
        return [color for color in COLORS if color not in taken]

    def with_shape(self, old: Shape | None, new: Shape | None) -> "Scene":
        """The scene with one shape replaced, added (`old` None) or removed (`new` None)."""
        kept = tuple(shape for shape in self.shapes if old is None or shape.cell != old.cell)
        return replace(self, shapes=kept + ((new,) if new else ()))


def choose(rng: np.random.Generator, values):
    """One of a non-empty sequence (or of the keys of a dictionary), all equally likely."""
    values = tuple(values)
    return values[rng.integers(len(values))]


def sample_scene(rng: np.random.Generator) -> Scene:
    """One to three shapes of different colours in different cells; half of the shapes are plain."""
    count = 1 + int(rng.integers(3))
    cells, colors = rng.permutation(len(PLACES)), rng.permutation(len(COLORS))
    names = tuple(COLORS)
    shapes = tuple(
        Shape(
            form=choose(rng, SHAPES),
            color=names[colors[i]],
            texture="plain" if rng.random() < 0.5 else choose(rng, TEXTURES[1:]),
            cell=int(cells[i]),
            radius=choose(rng, RADII),
            dx=choose(rng, OFFSETS),
            dy=choose(rng, OFFSETS),
        )
        for i in range(count)
    )
    return Scene(background=choose(rng, BACKGROUNDS), fill=choose(rng, FILLS), shapes=shapes)
