"""The benchmark of tiles compiles what it measures."""

from itertools import islice

import pytest
import tiling


@pytest.mark.slow
def test_the_autoencoder_and_an_edit_need_memory():
    whole = [row.value for row in islice(tiling.rows("tiny"), 3)]  # encode, decode, edit; the others are in tiles
    assert all(0 < gib < 1 for gib in whole)
