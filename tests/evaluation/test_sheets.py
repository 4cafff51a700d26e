"""Image sheets: places and sizes of pictures, and that the optional parts take the space they are given."""

import numpy as np
import pytest
from PIL import Image

from rewardedit_jax.evaluation.sheets import INK, RULE, Sheet

RED, BLUE = (255, 0, 1), (1, 0, 254)


def found(sheet, color):
    """Left, top, width and height of the area of a color, which is a full rectangle."""
    y, x = np.nonzero((np.asarray(sheet.image) == color).all(axis=2))
    box = x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1
    assert len(x) == box[2] * box[3]
    return tuple(map(int, box))


def test_a_picture_fills_its_cell():
    sheet = Sheet(2, 3, 64, gap=10, caption=22)
    sheet.picture(1, 2, Image.new("RGB", (16, 16), RED))
    assert found(sheet, RED) == (20 + 2 * 74, 20 + 96, 64, 64)
    assert sheet.image.size == (2 * 20 + 3 * 74 - 10, 2 * 20 + 2 * 96)


def test_a_wide_picture_is_aligned_with_the_bottom():
    sheet = Sheet(1, 1, 64)
    sheet.picture(0, 0, Image.new("RGB", (32, 16), RED))
    assert found(sheet, RED) == (20, 20 + 32, 64, 32)


def test_enlarged_pixels_stay_sharp():
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = RED
    sheet = Sheet(1, 1, 64)
    sheet.picture(0, 0, Image.fromarray(pixels))
    assert found(sheet, RED) == (20 + 32, 20, 32, 64)


def test_heading_text_and_footer_take_their_space():
    plain = Sheet(2, 2, 64)
    full = Sheet(2, 2, 64, heading=34, footer=18, text_width=100)
    assert np.subtract(full.image.size, plain.image.size).tolist() == [110, 52]
    full.picture(0, 0, Image.new("RGB", (8, 8), RED))
    full.picture(0, 1, Image.new("RGB", (8, 8), BLUE))
    assert found(full, RED)[:2] == (20, 54)
    assert found(full, BLUE)[:2] == (20 + 74 + 110, 54)
    assert (np.asarray(full.image) == RULE).all(axis=2).any()
    assert not (np.asarray(plain.image) == RULE).all(axis=2).any()


@pytest.mark.parametrize(
    ("write", "area"),
    [
        (lambda sheet: sheet.heading(1, "two"), np.s_[20:50, 204:]),
        (lambda sheet: sheet.text_heading("text"), np.s_[20:50, 94:204]),
        (lambda sheet: sheet.text(1, "kind", "make it red"), np.s_[150:246, 94:204]),
        (lambda sheet: sheet.footer("legend"), np.s_[246:280, 20:]),
        (lambda sheet: sheet.picture(0, 1, Image.new("RGB", (64, 64), "white"), ["x"], INK), np.s_[118:150, 200:]),
    ],
)
def test_text_is_written_in_its_place_only(write, area):
    empty, sheet = (Sheet(2, 2, 64, heading=34, footer=18, text_width=100) for _ in range(2))
    write(sheet)
    changed = (np.asarray(sheet.image) != np.asarray(empty.image)).any(axis=2)
    assert changed[area].any()
    assert changed.sum() == changed[area].sum()
