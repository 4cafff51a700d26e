"""The benchmark of tiles compiles edits with and without them."""

import pytest
import tiling


@pytest.mark.slow
def test_tiles_need_less_memory():
    found = [row.value for row in tiling.rows("tiny")]
    whole, tiled = found[:3], found[3:]
    assert all(few < much for few, much in zip(tiled[:2], whole[:2], strict=True))  # encode, decode
    assert len(tiled) == len(whole)
