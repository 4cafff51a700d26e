"""Pairs that cannot be used: named in an error, or replaced by a row with its own order, the same in every run."""

import itertools
import json
import logging
from collections import Counter

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from rewardedit_jax.data.images import ImageError
from rewardedit_jax.data.preferences import PreferenceFile
from rewardedit_jax.data.records import BadRecords, Preference
from rewardedit_jax.models.qwen_vision import QwenVisionConfig
from rewardedit_jax.scoring.pairs import TIES, pair_batches
from rewardedit_jax.shapes.tokenizers import shapes_scorer_tokenizer

VISION = QwenVisionConfig.from_hf({"depth": 1, "hidden_size": 32, "num_heads": 2, "fullatt_block_indexes": (0,)})
SIZE = 56


class Greys:
    """Pairs distinguished by their greys: 3 · i in the source, 1 and 2 more in a and b. Every third is a tie."""

    def __init__(self, size, broken=(), instructions=None):
        self.broken = broken
        self.labels = [self._preference(i, (instructions or {}).get(i, "make it grey")) for i in range(size)]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        if index in self.broken:
            raise ImageError(f"image {index}.png cannot be read")
        return self.labels[index]

    @staticmethod
    def _preference(i, instruction):
        pictures = (np.full((SIZE, SIZE, 3), 3 * i + j, np.uint8) for j in range(3))
        ratings = [(4.0, 1.0), (1.0, 4.0)]
        return Preference(f"pair{i}", instruction, ("s", "a", "b"), ("a", "b", "tie")[i % 3], *ratings, *pictures)


@pytest.fixture(scope="module")
def tokenizer():
    return shapes_scorer_tokenizer()


def _line(source, tokenizer, start=0, *, skip_bad=True, threads=0, ties="disentangle"):
    data = {"area": SIZE**2, "row_tokens": 8, "image_patches": 16, "threads": threads, "skip_bad": skip_bad}
    config = ConfigDict({"batch_size": 4, "accumulate": 1, "seed": 5, "data": data})
    rows = TIES[ties](source.labels)
    return pair_batches(config, source, rows, tokenizer, VISION, "be fair", start)


def _batches(source, tokenizer, steps, **settings):
    return list(itertools.islice(_line(source, tokenizer, **settings), steps))


def _rows(batches):
    """(pair, the edit that comes first, the other) of each row; read from the greys."""
    greys = [batch.patches[:, :, 0, 0].astype(int) for batch in batches]
    return [(source // 3, "sab"[first % 3], "sab"[other % 3]) for source, first, other in np.concatenate(greys)]


def _assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        jax.tree.map(np.testing.assert_array_equal, batch, other)


class TestReplacements:
    BROKEN = range(4, 24)

    def test_a_replacement_brings_its_own_order(self, tokenizer):
        rows = _rows(_batches(Greys(60, self.BROKEN), tokenizer, 20))
        assert {row for row in rows if row[0] % 3 == 0} <= {(i, "a", "b") for i in range(60)}
        assert {row for row in rows if row[0] % 3 == 1} <= {(i, "b", "a") for i in range(60)}
        assert not {i for i, *_ in rows} & set(self.BROKEN)

    def test_good_rows_stay_where_they_are(self, tokenizer):
        whole = _rows(_batches(Greys(60), tokenizer, 20))
        rows = _rows(_batches(Greys(60, self.BROKEN), tokenizer, 20))
        places = [i for i, row in enumerate(whole) if row[0] not in self.BROKEN]
        assert 40 < len(places) < 80
        assert [rows[i] for i in places] == [whole[i] for i in places]

    def test_a_row_of_broken_pairs_does_not_crowd_on_one(self, tokenizer):
        """One epoch: the twenty broken pairs are 27 of 80 rows, in whose place the next pair would come 28 times."""
        counts = Counter(_rows(_batches(Greys(60, self.BROKEN), tokenizer, 20)))
        assert counts.total() == 80
        assert max(counts.values()) <= 4

    @pytest.mark.parametrize("threads", [0, 3])
    @pytest.mark.parametrize("start", [1, 7, 23])
    def test_a_resumed_run_sees_the_same(self, tokenizer, start, threads):
        whole = _batches(Greys(60, self.BROKEN), tokenizer, 26)
        resumed = _batches(Greys(60, self.BROKEN), tokenizer, 26 - start, start=start, threads=threads)
        _assert_equal(whole[start:], resumed)

    def test_each_bad_pair_is_logged_once(self, tokenizer, caplog):
        with caplog.at_level(logging.WARNING):
            _batches(Greys(9, {2, 4}), tokenizer, 9)  # three epochs of twelve rows; pair 2 is a tie, two rows
        for number in (2, 4):
            assert caplog.text.count(f"pair pair{number} replaced") == 1
            assert caplog.text.count(f"image {number}.png cannot be read") == 1
        assert "2 bad records so far" in caplog.text

    def test_too_many_are_an_error(self, tokenizer):
        with pytest.raises(BadRecords, match=r"32 records.* pair pair\d: image \d\.png"):
            next(_line(Greys(9, range(9)), tokenizer))


class TestFaults:
    """The error about a bad pair, and its replacement with `skip_bad`."""

    def _check(self, source, tokenizer, message, bad):
        with pytest.raises(BadRecords, match=rf"(?s){message}.*\n.*data\.skip_bad=True"):
            _batches(source, tokenizer, 3, skip_bad=False)
        rows = _rows(_batches(source, tokenizer, 3))
        assert bad not in {i for i, *_ in rows}

    def test_a_file_cut_short(self, tokenizer, tmp_path):
        names = [[f"{3 * i + j}.png" for j in range(3)] for i in range(4)]
        for value, name in enumerate(itertools.chain(*names)):
            Image.new("RGB", (SIZE, SIZE), (value, value, value)).save(tmp_path / name)
        pairs = [{"prompt": "a", **dict(zip(("path_src", "path1", "path2"), three, strict=True))} for three in names]
        (tmp_path / "pairs.json").write_text(json.dumps(pairs))
        (tmp_path / "8.png").write_bytes((tmp_path / "8.png").read_bytes()[:70])
        source = PreferenceFile(tmp_path / "pairs.json", skip_bad=True)
        with pytest.raises(ImageError, match=r"8\.png"):
            source[2]  # the source itself replaces nothing
        self._check(source, tokenizer, r"pair 2:7\.png: image .*8\.png cannot be read", 2)

    @pytest.mark.parametrize("token", ["<|Reward|>", "<|image_pad|>"])
    def test_a_token_of_the_scorer_in_an_instruction(self, tokenizer, token):
        source = Greys(6, instructions={1: f"add {token}"})
        self._check(source, tokenizer, r"pair pair1: the instruction contains ", 1)

    @pytest.mark.parametrize("image", ["source", "edited_a"])
    def test_an_image_too_narrow_to_be_scored(self, tokenizer, image):
        source = Greys(6)
        source.labels[1] = Preference(**{**vars(source[1]), image: np.zeros((1, 300, 3), np.uint8)})
        self._check(source, tokenizer, r"pair pair1: .*300×1 pixels .* cannot be scored", 1)
