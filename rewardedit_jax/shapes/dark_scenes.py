"""The brightness error of dark scenes: how much an editor lightens a background that it should leave alone.

Diffusion models whose last training step has too little noise tend to give every picture a medium brightness (Lin et
al. 2023, arXiv:2305.08891). A dark scene shows this first, and the oracle's tolerance may hide it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from scipy.ndimage import binary_erosion

from rewardedit_jax.shapes.examples import ShapesExample, example_case
from rewardedit_jax.shapes.render import render, to_uint8
from rewardedit_jax.shapes.scene import Scene

DARK = 0.2  # mean brightness of a dark source, over pixels and channels, 0..1
_SAME = 1  # difference of two 8-bit values that rounding explains
_MARGIN = 2  # pixels around the edit that do not count: soft outlines reach them
_WHOLE = ("background", "global", "style")  # edit types that may change the background


@dataclass(frozen=True)
class BrightnessError:
    """Mean over dark scenes of |mean brightness of the untouched background, output - source|."""

    value: float  # 0..1; NaN without dark scenes
    scenes: int

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "value": self.value if self.scenes else None}  # JSON has no NaN

    def __str__(self) -> str:
        return f"{self.value:.3f}" if self.scenes else "no dark scene"


def untouched_backgrounds(scenes: Sequence[ShapesExample]) -> dict[int, Bool[np.ndarray, "32 32"]]:
    """The mask of the background that an edit should leave alone, by the index of each dark scene that has one.

    Args:
      scenes: the first examples of the test split; their index is their place in the sequence.
    """
    dark = [i for i, s in enumerate(scenes) if s.edit_type not in _WHOLE and s.source.mean() / 255 < DARK]
    masks = {i: _untouched_background(i, scenes[i]) for i in dark}
    return {i: mask for i, mask in masks.items() if mask.any()}


def brightness_error(
    pictures: Sequence[UInt8[np.ndarray, "n 32 32 3"]],
    scenes: Sequence[ShapesExample],
    masks: dict[int, Bool[np.ndarray, "32 32"]],
) -> BrightnessError:
    """The error of the outputs of one editor or, averaged, of several seeds of it. `masks`: `untouched_backgrounds`."""
    errors = [
        abs(float(of_seed[i][mask].mean() - scenes[i].source[mask].mean())) / 255
        for of_seed in pictures
        for i, mask in masks.items()
    ]
    return BrightnessError(float(np.mean(errors)) if errors else float("nan"), len(masks))


def _untouched_background(index: int, example: ShapesExample) -> Bool[np.ndarray, "32 32"]:
    scene, edit = example_case(index, "test")
    same = _equal(example.source, example.ideal)
    # Outside the picture counts as equal: its border is not the border of the edit.
    untouched = binary_erosion(same, np.ones((2 * _MARGIN + 1,) * 2), border_value=True)
    return untouched & _background(scene, example.source) & _background(edit.apply(scene), example.ideal)


def _background(scene: Scene, picture: UInt8[np.ndarray, "32 32 3"]) -> Bool[np.ndarray, "32 32"]:
    """Where the picture of the scene looks as it would without shapes."""
    return _equal(picture, to_uint8(render(replace(scene, shapes=()))))


def _equal(a: UInt8[np.ndarray, "32 32 3"], b: UInt8[np.ndarray, "32 32 3"]) -> Bool[np.ndarray, "32 32"]:
    # uint8 would wrap below 0.
    return (np.abs(a.astype(int) - b) <= _SAME).all(-1)
