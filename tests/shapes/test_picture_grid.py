"""The picture grid: which scenes it shows, and what stands where."""

import numpy as np
import pytest

from rewardedit_jax.shapes import EDIT_TYPES
from rewardedit_jax.shapes.editor_benchmark import held_out_scenes
from rewardedit_jax.shapes.picture_grid import Column, choose_rows, draw_grid

ROWS = [0, 2, 3, 7]
SIDE = 5 * 32  # pixels of a picture in the grid


@pytest.fixture(scope="module")
def scenes():
    return held_out_scenes(40)


def flat(color, n):
    return np.full((n, 32, 32, 3), color, np.uint8)


def columns_of(grid, color):
    """Left edges of the runs of a colour in the first row of the grid that has it, and their total width."""
    found = (grid == np.asarray(color)).all(-1)
    row = found[found.any(1)][0]
    return np.flatnonzero(np.diff(np.concatenate([[False], row]).astype(int)) == 1).tolist(), int(row.sum())


def scored(totals):
    return np.stack([np.asarray(totals, np.float32), np.ones(len(totals)), np.zeros(len(totals))], axis=1)


def test_one_row_for_each_type(scenes):
    rows = choose_rows(scenes, scored(np.arange(40)))
    assert [scenes[i].edit_type for i in rows] == list(EDIT_TYPES)


def test_rows_have_the_median_and_not_the_best(scenes):
    """Of an even number the lower one of the two in the middle."""
    totals = np.random.default_rng(0).permutation(40)
    for i in choose_rows(scenes, scored(totals)):
        others = [totals[j] for j, scene in enumerate(scenes) if scene.edit_type == scenes[i].edit_type]
        assert sorted(others)[(len(others) - 1) // 2] == totals[i]
        assert totals[i] < max(others) or len(others) == 1


def test_all_three_scores_rank(scenes):
    """The scores of one perspective alone would choose another scene."""
    three = [scene for scene in scenes if scene.edit_type == "add"][:3]
    assert choose_rows(three, np.float32([[5, 0, 0], [4, 4, 4], [0, 4, 4]])) == [2]


def test_types_without_scenes_have_no_row(scenes):
    types = {scene.edit_type for scene in scenes[:3]}
    assert len(choose_rows(scenes[:3], scored([1, 2, 3]))) == len(types)


def test_every_output_has_its_column(scenes):
    red, blue = (255, 0, 1), (1, 0, 254)  # no pixel of a scene has these
    outputs = [Column("a", flat(red, 40), np.ones((40, 3), np.float32)), Column("b", flat(blue, 40))]
    grid = draw_grid(scenes, outputs, ROWS, "a")
    (left_a,), width_a = columns_of(grid, red)
    (left_b,), width_b = columns_of(grid, blue)
    assert width_a == width_b == SIDE
    assert left_b - left_a > SIDE
    for color in (red, blue):
        assert (grid == np.asarray(color)).all(-1).sum() == len(ROWS) * SIDE**2  # nothing is drawn over


def test_size_follows_rows_and_columns(scenes):
    output = Column("a", flat(0, 40))
    small = draw_grid(scenes, [output], [0, 1], "a")
    assert draw_grid(scenes, [output], [0, 1, 2], "a").shape[0] - small.shape[0] > SIDE
    wider = draw_grid(scenes, [output, output], [0, 1], "a")
    assert wider.shape[0] == small.shape[0]
    assert wider.shape[1] - small.shape[1] > SIDE
    assert small.dtype == np.uint8


def test_source_and_ideal_are_shown_as_they_are(scenes):
    grid = draw_grid(scenes, [], [3], "a")
    windows = np.lib.stride_tricks.sliding_window_view(grid, (SIDE, SIDE, 3))[:, :, 0]
    for picture in (scenes[3].source, scenes[3].ideal):
        large = picture.repeat(5, 0).repeat(5, 1)
        corner = (windows[:, :, 0, 0] == large[0, 0]).all(-1) & (windows[:, :, 80, 80] == large[80, 80]).all(-1)
        assert any((windows[y, x] == large).all() for y, x in np.argwhere(corner))


def test_the_legend_fits_the_narrowest_page(scenes):
    """The last column of pixels and the margin are white below the pictures."""
    grid = draw_grid(scenes, [Column("a", flat(0, 40))], [0], "imperfect edits as in training")
    footer = grid[-56:]
    assert (footer < 200).any()
    assert (footer[:, -20:] == 255).all()
