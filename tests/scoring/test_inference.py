"""Which edits form a batch, and of what size."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from rewardedit_jax.scoring.images import PreparedImage
from rewardedit_jax.scoring.inference import batch_rows, plan_batches
from rewardedit_jax.scoring.packing import ScorerItem


def image(height, width, name):
    return PreparedImage(np.zeros((28 * height, 28 * width, 3), np.uint8), False, name.encode())


def items(count, edits_each=4):
    """Edits of sources in turn, of sizes drawn at random."""
    rng = np.random.default_rng(0)
    sources = [image(*rng.integers(1, 9, 2), f"source {i}") for i in range(-(-count // edits_each))]
    prompts = tuple(np.arange(n, dtype=np.int32) for n in (5, 6))
    edits = (image(*rng.integers(1, 9, 2), f"edit {i}") for i in range(count))
    return [
        ScorerItem(sources[i % len(sources)], edit, "snow", prompts, np.arange(2, dtype=np.int32))
        for i, edit in enumerate(edits)
    ]


def test_every_edit_is_in_one_batch_and_those_of_a_source_follow_each_other():
    edits = items(40)
    batches = plan_batches(edits, 8)
    order = [i for batch in batches for i in batch]
    assert sorted(order) == list(range(40))
    assert {len(batch) for batch in batches} == {8}
    digests = [edits[i].source.digest for i in order]
    assert sum(a != b for a, b in pairwise(digests)) == 9  # ten sources, each in one run


def test_sources_follow_each_other_by_their_largest_edit():
    edits = items(40)
    (batch,) = plan_batches(edits, 40)
    most = {}
    for i in batch:
        size = max(edits[i].source.n_patches, edits[i].edited.n_patches)
        most[edits[i].source.digest] = max(size, most.get(edits[i].source.digest, 0))
    last = most.pop(edits[-1].source.digest)  # more of them may come
    assert list(most.values()) == sorted(most.values())
    assert last < max(most.values())


def test_the_last_items_source_comes_last():
    edits = items(40)
    edits.append(replace(edits[0], source=image(1, 1, "small")))
    order = [edits[i].source for batch in plan_batches(edits, 8, {edits[-1].source}) for i in batch]
    assert order[-1] is edits[-1].source


def test_encoded_sources_come_first():
    edits = items(40)
    encoded = {edits[3].source, edits[7].source}
    order = [edits[i].source for batch in plan_batches(edits, 8, encoded) for i in batch]
    assert set(order[:8]) == encoded
    assert [source for source in order[8:] if source in encoded] == []


@pytest.mark.parametrize(("edits", "rows"), [(1, 1), (2, 2), (3, 4), (5, 6), (6, 6), (7, 6), (1000, 6)])
def test_a_few_edits_make_a_small_batch(edits, rows):
    assert batch_rows(edits, 6) == rows


def test_devices_divide_a_batch():
    assert [batch_rows(edits, 8, multiple=3) for edits in (1, 4, 100)] == [3, 6, 9]
