"""Picture grids: which scenes are shown, and that every picture lies where its column says."""

import numpy as np
import pytest

from rewardedit_jax.shapes import EDIT_TYPES
from rewardedit_jax.shapes.editor_benchmark import held_out_scenes
from rewardedit_jax.shapes.pictures import Column, choose_rows, draw_grid


@pytest.fixture(scope="module")
def scenes():
    return held_out_scenes(40)


def flat(color, n):
    return np.full((n, 32, 32, 3), color, np.uint8)


def columns_of(grid, color):
    """Left edges of the runs in which a colour stands in a row of the grid that has it."""
    found = (grid == np.asarray(color)).all(-1)
    row = found[found.any(1)][0]
    return np.flatnonzero(np.diff(np.concatenate([[False], row]).astype(int)) == 1).tolist(), int(row.sum())


def test_rows_begin_with_one_of_each_type(scenes):
    rows = choose_rows(scenes)
    assert len(set(rows)) == len(rows) == 8
    assert [scenes[i].edit_type for i in rows[:7]] == list(EDIT_TYPES)
    assert all(scenes[j].edit_type != scenes[i].edit_type for i in rows[:7] for j in range(i))  # each the first
    assert rows[7] == min(set(range(8)) - set(rows[:7]))


def test_fewer_scenes_than_rows(scenes):
    assert sorted(choose_rows(scenes[:5])) == list(range(5))


def test_every_output_has_its_column(scenes):
    red, blue = (255, 0, 1), (1, 0, 254)  # no pixel of a scene has these
    outputs = [Column("a", flat(red, 40), np.ones((40, 3), np.float32)), Column("b", flat(blue, 40))]
    grid = draw_grid(scenes, outputs, choose_rows(scenes))
    (left_a,), width_a = columns_of(grid, red)
    (left_b,), width_b = columns_of(grid, blue)
    assert width_a == width_b == 4 * 32
    assert left_b - left_a > 4 * 32
    for color in (red, blue):
        assert (grid == np.asarray(color)).all(-1).sum() == 8 * 128 * 128  # nothing is drawn over


def test_size_follows_rows_and_columns(scenes):
    output = Column("a", flat(0, 40))
    small = draw_grid(scenes, [output], [0, 1])
    assert draw_grid(scenes, [output], [0, 1, 2]).shape[0] - small.shape[0] > 128
    wider = draw_grid(scenes, [output, output], [0, 1])
    assert wider.shape[0] == small.shape[0]
    assert wider.shape[1] - small.shape[1] > 128
    assert small.dtype == np.uint8


def test_source_and_ideal_are_shown_as_they_are(scenes):
    grid = draw_grid(scenes, [], [3])
    windows = np.lib.stride_tricks.sliding_window_view(grid, (128, 128, 3))[:, :, 0]
    for picture in (scenes[3].source, scenes[3].ideal):
        large = picture.repeat(4, 0).repeat(4, 1)
        corner = (windows[:, :, 0, 0] == large[0, 0]).all(-1) & (windows[:, :, 64, 64] == large[64, 64]).all(-1)
        assert any((windows[y, x] == large).all() for y, x in np.argwhere(corner))
