"""Batches of edits: what they hold, in which order, on how many hosts, and from which step on."""

import itertools
import json
import logging
import pickle
from dataclasses import replace
from typing import Any

import flax.struct
import jax
import numpy as np
import pytest
from paths import SHARED_DATA
from PIL import Image

from rewardedit_jax.data.images import ImageError, square
from rewardedit_jax.data.pipeline import EditBatch, draw_mirrors, edit_batches, warn_of_sides
from rewardedit_jax.data.records import BadRecords, EditRecord
from rewardedit_jax.data.triplets import TripletFile
from rewardedit_jax.reward import Reward, join_feedback

AURORA = SHARED_DATA / "aurora"
SIZE = 8


@flax.struct.dataclass
class Inputs:
    """What a tiny base editor reads: the characters of the texts, and the scores."""

    instruction: Any  # int32[b, 24]
    feedback: Any = None  # int32[b, 24]
    scores: Any = None  # float32[b, 3]


def characters(texts):
    return np.stack([np.asarray([*map(ord, text.ljust(24)[:24])], np.int32) for text in texts])


def read(sources, instructions, rewards):
    if rewards[0] is None:
        return Inputs(characters(instructions))
    feedback = [join_feedback(reward.texts, ("following", "quality")) for reward in rewards]
    return Inputs(characters(instructions), characters(feedback), np.stack([reward.scores for reward in rewards]))


class Numbered:
    """Records distinguished by the grey of their pictures: i in the source, 100 + i in the edited image."""

    def __init__(self, size, judged=True, unjudged=(), broken=()):
        self.size, self.judged, self.unjudged, self.broken = size, judged, unjudged, broken

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index in self.broken:
            raise ImageError(f"image {index}.jpg cannot be read")
        judged = self.judged and index not in self.unjudged
        return EditRecord(
            key=str(index),
            instruction=str(index),
            source=self._picture(index),
            edited=self._picture(100 + index),
            scores=np.asarray([index % 6, 5, 0], np.float32) if judged else None,
            feedback=(f"f{index}", "None", f"q{index}") if judged else None,
        )

    @staticmethod
    def _picture(value):
        """Grey, white on the right: a flip shows, and resizing to SIZE changes nothing."""
        picture = np.full((SIZE, SIZE, 3), value, np.uint8)
        picture[:, SIZE // 2 :] = 255
        return picture


SETTINGS = {"batch_size": 4, "resolution": SIZE, "flip": False, "skip_bad": False, "seed": 3}


def _batches(source, steps=None, **changes):
    return list(itertools.islice(edit_batches(source, read, **{**SETTINGS, **changes}), steps))


def _numbers(batches):
    """Which records are in the batches, in order; read from the darker half of a picture."""
    return [int(picture.min()) for batch in batches for picture in batch.source]


def _assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        jax.tree.map(np.testing.assert_array_equal, batch, other)


def _concatenate(parts):
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def test_a_batch_holds_the_records_in_order():
    (batch,) = _batches(Numbered(4), shuffle=False, repeat=False)
    assert isinstance(batch, EditBatch)
    for i in range(4):
        np.testing.assert_array_equal(batch.source[i], Numbered._picture(i))
        np.testing.assert_array_equal(batch.edited[i], Numbered._picture(100 + i))
    np.testing.assert_array_equal(batch.inputs.instruction, characters("0123"))
    np.testing.assert_array_equal(batch.inputs.feedback, characters(f"f{i}; q{i}" for i in range(4)))
    np.testing.assert_array_equal(batch.inputs.scores, [[0, 5, 0], [1, 5, 0], [2, 5, 0], [3, 5, 0]])
    assert [leaf.dtype for leaf in jax.tree.leaves(batch)] == ["uint8", "uint8", "int32", "int32", "float32"]


def test_images_are_resized_straight_to_the_square():
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    record = EditRecord("a", "a", picture, picture[::-1].copy(), None, None)
    (batch,) = _batches([record], batch_size=1, resolution=12, repeat=False)
    np.testing.assert_array_equal(batch.source[0], np.asarray(square(Image.fromarray(picture), 12)))
    np.testing.assert_array_equal(batch.edited[0], np.asarray(square(Image.fromarray(picture[::-1]), 12)))


def test_without_rewards_there_are_none():
    (batch,) = _batches(Numbered(4, judged=False), steps=1)
    assert jax.tree.map(np.shape, batch.inputs) == Inputs((4, 24))


@pytest.mark.parametrize("threads", [0, 3])
def test_every_record_comes_once_per_epoch_in_a_new_order(threads):
    numbers = _numbers(_batches(Numbered(12), steps=6, threads=threads))
    first, second = numbers[:12], numbers[12:]
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert first != sorted(first)


def test_epochs_follow_each_other_without_a_gap():
    """Ten records in batches of four: the third batch is the end of one epoch and the start of the next."""
    numbers = _numbers(_batches(Numbered(10), steps=5))
    assert sorted(numbers[:10]) == sorted(numbers[10:]) == list(range(10))


def test_a_batch_may_be_larger_than_the_source():
    (batch,) = _batches(Numbered(3), steps=1, batch_size=6)
    assert sorted(_numbers([batch])) == [0, 0, 1, 1, 2, 2]


def test_the_seed_makes_order_and_flips():
    runs = [_batches(Numbered(12), steps=3, flip=True, seed=seed) for seed in (3, 3, 4)]
    _assert_equal(runs[0], runs[1])
    assert _numbers(runs[0]) != _numbers(runs[2])


@pytest.mark.parametrize("hosts", [2, 4])
@pytest.mark.parametrize("repeat", [True, False])
def test_the_hosts_together_see_the_same_batches(hosts, repeat):
    settings = {"steps": 5, "flip": True, "repeat": repeat}
    source = Numbered(22)  # not a multiple of the batch: one epoch ends after five whole steps
    whole = _batches(source, **settings)
    parts = [_batches(source, host=host, hosts=hosts, **settings) for host in range(hosts)]
    assert parts[0][0].source.shape[0] == 4 // hosts
    _assert_equal(whole, [_concatenate(part) for part in zip(*parts, strict=True)])


@pytest.mark.parametrize("host", [0, 1])
@pytest.mark.parametrize("start", [1, 3, 5])
def test_any_step_can_be_the_first(start, host):
    settings = {"flip": True, "host": host, "hosts": 2}
    whole = _batches(Numbered(10), steps=7, **settings)
    _assert_equal(whole[start:], _batches(Numbered(10), steps=7 - start, start=start, **settings))


def test_a_far_start_costs_nothing():
    """A million steps on, one step is read: only its records, and those read ahead."""

    class Counting(Numbered):
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            return super().__getitem__(index)

    source = Counting(10)
    assert len(_batches(source, steps=1, start=1_000_000, threads=0)) == 1
    assert source.reads == 4


def test_two_pipelines_share_nothing():
    source = Numbered(12)
    alone = _batches(source, steps=4)
    one, other = (edit_batches(source, read, **SETTINGS) for _ in range(2))
    next(one)
    interleaved = [next(other) for _ in range(2) if next(one)]
    _assert_equal(alone[:2], interleaved)


def test_one_epoch_ends_after_its_whole_batches(caplog):
    with caplog.at_level(logging.WARNING):
        batches = _batches(Numbered(11), repeat=False)
    assert len(batches) == 2
    assert "3 of 11 records do not fill a batch" in caplog.text
    assert _batches(Numbered(8), repeat=False, start=2) == []


def _is_flipped(picture):
    return picture[0, 0, 0] == 255


def test_pairs_are_flipped_together_half_of_the_time():
    batches = _batches(Numbered(20), steps=100, flip=True)
    flips = [(_is_flipped(s), _is_flipped(e)) for b in batches for s, e in zip(b.source, b.edited, strict=True)]
    assert all(source == edited for source, edited in flips)
    assert 150 < sum(source for source, _ in flips) < 250  # of 400: five standard deviations
    by_record = {}
    for number, (flipped, _) in zip(_numbers(batches), flips, strict=True):
        by_record.setdefault(number, set()).add(flipped)
    assert all(seen == {True, False} for seen in by_record.values())  # drawn anew in every epoch


def test_a_block_of_flips_is_the_flips_of_its_places():
    block = draw_mirrors(3, place=5, count=200)
    assert block.tolist() == [draw_mirrors(3, place, 1)[0] for place in range(5, 205)]
    assert 60 < block.sum() < 140
    assert block.tolist() != draw_mirrors(4, place=5, count=200).tolist()


def test_nothing_is_flipped_unless_asked():
    assert not any(_is_flipped(s) for b in _batches(Numbered(20), steps=20) for s in b.source)


def test_an_unreadable_image_is_an_error_naming_it():
    with pytest.raises(BadRecords, match=r"record 5: .*5\.jpg(?s:.*)skip_bad=True") as raised:
        _batches(Numbered(8, broken=(5,)), repeat=False)
    assert isinstance(raised.value.__cause__, ImageError)


def test_an_unreadable_image_is_replaced_when_asked():
    """Only its place changes: other records, and their flips, stay."""
    settings = {"steps": 6, "flip": True, "skip_bad": True}
    whole, batches = (_batches(Numbered(12, broken=broken), **settings) for broken in ((), (5,)))
    assert 5 not in _numbers(batches)
    for before, after in zip(whole, batches, strict=True):
        same = np.flatnonzero(before.source.min(axis=(1, 2, 3)) != 5)
        assert len(same) < 4 or not (before.source != after.source).any()
        jax.tree.map(lambda x, y, same=same: np.testing.assert_array_equal(x[same], y[same]), before, after)


def test_half_judged_batches_are_refused():
    with pytest.raises(ValueError, match="record 2 has no reward"):
        _batches(Numbered(4, unjudged=(2,)), shuffle=False, repeat=False)


@pytest.mark.parametrize("missing", ["scores", "feedback"])
def test_half_a_reward_is_refused(missing):
    """With `skip_bad` too: left out, no record would be left of such data."""
    records = [replace(record, **{missing: None}) for record in map(Numbered(4).__getitem__, range(4))]
    with pytest.raises(ValueError, match=f"record 0 has .* but no {missing}"):
        _batches(records, shuffle=False, repeat=False, skip_bad=True)


def test_read_is_given_the_rewards():
    given = []
    _ = list(
        edit_batches(Numbered(4), lambda *requests: given.append(requests), shuffle=False, repeat=False, **SETTINGS)
    )
    ((sources, instructions, rewards),) = given
    assert [int(source.min()) for source in sources] == [0, 1, 2, 3]
    assert list(instructions) == ["0", "1", "2", "3"]
    assert rewards[1] == Reward(1, 5, 0, ("f1", "None", "q1"))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"batch_size": 5, "hosts": 2}, "batch_size=5: .* multiple .* hosts, 2"),
        ({"batch_size": 0}, "batch_size=0: .* positive"),
        ({"host": 2, "hosts": 2}, r"host=2: .* 0\.\.1"),
        ({"batch_size": 9, "repeat": False}, "8 records .* batch of 9"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_at_once(changes, fault):
    with pytest.raises(ValueError, match=fault):
        edit_batches(Numbered(8), read, **{**SETTINGS, **changes})


def test_an_empty_source_is_refused_at_once():
    with pytest.raises(ValueError, match="0 records"):
        _batches(Numbered(0))


@pytest.mark.skipif(not AURORA.exists(), reason="../shared/data/aurora is not here")
def test_aurora_makes_batches():
    source = pickle.loads(pickle.dumps(TripletFile(AURORA / "test.json")))
    batches = _batches(source, batch_size=16, resolution=64, shuffle=False, repeat=False)
    assert [batch.source.shape for batch in batches] == [(16, 64, 64, 3)] * 7
    triplets = json.loads((AURORA / "test.json").read_text("utf-8"))
    texts = characters(triplet["instruction"] for triplet in triplets)
    np.testing.assert_array_equal(np.concatenate([batch.inputs.instruction for batch in batches]), texts)
    changed = np.abs(np.concatenate([b.source.astype(int) - b.edited for b in batches])).mean(axis=(1, 2, 3))
    assert changed.min() > 0.1  # no pair is twice the same image
    assert np.median(changed) < 60  # nor two that have nothing to do with each other


class Texts:
    """A source of instructions without pictures."""

    def __init__(self, *texts):
        self.texts = texts

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        raise AssertionError("a record was read")

    def instructions(self):
        return self.texts


SIDES = ["move it to the left", "the LEFTMOST cup", "a left-hand turn", "look rightwards", "Right: a tree", "righthand"]
NO_SIDES = ["copyright sign", "a bright cleft", "leftovers", "human rights", "make it snow", None]


def test_instructions_that_name_a_side_are_counted(caplog):
    warn_of_sides(Texts(*NO_SIDES, *SIDES))
    (record,) = caplog.records
    assert f"{len(SIDES)} of the {len(NO_SIDES) + len(SIDES)} instructions" in record.message
    assert SIDES[0] in record.message
    assert "data.flip=False" in record.message


@pytest.mark.parametrize("source", [Texts(*NO_SIDES), Texts(), Numbered(3)])
def test_instructions_without_sides_or_unknown_ones_are_not_logged(source, caplog):
    warn_of_sides(source)
    assert not caplog.records
