import json
import logging
import pickle
from typing import ClassVar

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from rewardedit_jax.data.images import ImageError
from rewardedit_jax.data.instruct_pix2pix import InstructPix2PixFolder, InstructPix2PixParquet, RewardEditFolder
from rewardedit_jax.data.pipeline import edit_batches
from rewardedit_jax.data.records import BadRecords, evenly_spaced


def _grey(value, size=8):
    return Image.new("RGB", (size, size), (value, value, value))


def _pair(folder, seed, value, edit="edit"):
    """A pair whose source is `value` grey and whose edited image is ten brighter."""
    folder.mkdir(parents=True, exist_ok=True)
    _grey(value).save(folder / f"{seed}_0.jpg")
    _grey(value + 10).save(folder / f"{seed}_1.jpg")
    (folder / "prompt.json").write_text(json.dumps({"edit": edit}))


def _values(record):
    return int(record.source[0, 0, 0]), int(record.edited[0, 0, 0])


def _reward(*scores, texts=("None", "None", "grainy")):
    return [{"Score": score, "Negative Prompt": text} for score, text in zip(scores, texts, strict=True)]


@pytest.fixture
def ip2p(tmp_path):
    """Three names, four pairs; the second name has several texts."""
    _pair(tmp_path / "0000001", "11", 20, "make it snow")
    _pair(tmp_path / "0000002", "21", 60, ["turn it blue", "make it blue"])
    _pair(tmp_path / "0000002", "22", 100, ["turn it blue", "make it blue"])
    _pair(tmp_path / "0000003", "31", 140, "remove the dog")
    (tmp_path / "seeds.json").write_text(
        json.dumps([["0000001", ["11"]], ["0000002", ["21", "22"]], ["0000003", [31]]])
    )
    return tmp_path


class TestInstructPix2PixFolder:
    def test_every_pair_is_a_record(self, ip2p):
        source = InstructPix2PixFolder(ip2p)
        assert len(source) == 4
        records = [source[i] for i in range(4)]
        assert [r.key for r in records] == ["0000001/11", "0000002/21", "0000002/22", "0000003/31"]
        assert [_values(r) for r in records] == [(20, 30), (60, 70), (100, 110), (140, 150)]
        assert {(r.scores, r.feedback) for r in records} == {(None, None)}

    def test_a_list_of_texts_is_taken_in_turn(self, ip2p):
        source = InstructPix2PixFolder(ip2p)
        texts = [source[i].instruction for i in range(4)]
        assert texts == ["make it snow", "make it blue", "turn it blue", "remove the dog"]

    def test_numbers_count_from_the_end_and_stop_there(self, ip2p):
        source = InstructPix2PixFolder(ip2p)
        assert source[-1].key == source[3].key
        assert source[-2].instruction == source[2].instruction  # of several texts
        with pytest.raises(IndexError):
            source[4]

    def test_pickled_it_is_the_same(self, ip2p):
        source = InstructPix2PixFolder(ip2p)
        copy = pickle.loads(pickle.dumps(source))
        assert (len(copy), copy[2].key) == (len(source), source[2].key)

    def test_all_faults_of_the_index_come_in_one_error(self, ip2p):
        (ip2p / "seeds.json").write_text(json.dumps([["0000001", ["11"]], ["gone", ["1"]], ["0000002", []], "x"]))
        with pytest.raises(BadRecords, match=r"(?s)3 bad records.*entry 2.*\[1\].*entry 3.*'x'.*entry 1.*gone.*folder"):
            InstructPix2PixFolder(ip2p)

    def test_bad_entries_are_left_out_and_logged_when_asked(self, ip2p, caplog):
        (ip2p / "seeds.json").write_text(json.dumps([["gone", ["1"]], ["0000001", ["11"]]]))
        with caplog.at_level(logging.WARNING):
            source = InstructPix2PixFolder(ip2p, skip_bad=True)
        assert [source[i].key for i in range(len(source))] == ["0000001/11"]
        assert "1 bad record\n" in caplog.text
        assert "gone" in caplog.text

    @pytest.mark.parametrize("seed", ["../0000003/31", "a/b", "..\\x", "a\0", "/etc/x"])
    def test_a_seed_is_no_path(self, ip2p, seed):
        (ip2p / "seeds.json").write_text(json.dumps([["0000001", ["11", seed]], ["0000003", ["31"]]]))
        with pytest.raises(BadRecords, match=r"1 bad record\n.*entry 0: seed .* of 0000001: .*slashes"):
            InstructPix2PixFolder(ip2p)
        assert [record.key for record in InstructPix2PixFolder(ip2p, skip_bad=True)] == ["0000003/31"]

    @pytest.mark.parametrize("name", ["..", "../x", "/", ".", "seeds.json"])
    def test_a_name_is_a_folder_of_the_root(self, ip2p, name):
        (ip2p / "seeds.json").write_text(json.dumps([[name, ["11"]]]))
        with pytest.raises(BadRecords, match="no such folder"):
            InstructPix2PixFolder(ip2p)

    def test_images_may_have_another_format(self, ip2p):
        for kind in (0, 1):
            image = ip2p / "0000001" / f"11_{kind}.jpg"
            Image.open(image).save(image.with_suffix(".webp"), lossless=True)
            image.unlink()
            (image.parent / f"11_{kind}.txt").write_text("no image")
        assert _values(InstructPix2PixFolder(ip2p)[0]) == (20, 30)

    @pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16"])
    def test_byte_order_marks_are_read(self, ip2p, mark):
        for file in (ip2p / "seeds.json", *ip2p.glob("*/prompt.json")):
            file.write_text(file.read_text(), mark)
        assert InstructPix2PixFolder(ip2p)[0].instruction == "make it snow"

    @pytest.mark.parametrize(
        "prompt", ["{", "{}", '{"edit": []}', '{"edit": ["a", 1]}', "[]", '{"edit": ["", "x"]}', '{"edit": " "}']
    )
    def test_a_bad_prompt_is_named(self, ip2p, prompt):
        (ip2p / "0000001" / "prompt.json").write_text(prompt)
        with pytest.raises(BadRecords, match=r"0000001/prompt\.json"):
            InstructPix2PixFolder(ip2p)[0]

    @pytest.mark.parametrize("missing", ["directory", "seeds.json"])
    def test_the_error_of_a_missing_place_shows_the_layout(self, tmp_path, missing):
        root = tmp_path / "nowhere" if missing == "directory" else tmp_path
        with pytest.raises(FileNotFoundError, match=r"(?s)prompt\.json.*timbrooks/instructpix2pix-clip-filtered"):
            InstructPix2PixFolder(root)


class TestUnreadableImages:
    @pytest.fixture
    def source(self, ip2p):
        (ip2p / "0000002" / "21_1.jpg").write_bytes(b"cut")
        (ip2p / "0000002" / "22_0.jpg").unlink()
        (ip2p / "0000003" / "prompt.json").unlink()
        return InstructPix2PixFolder(ip2p, skip_bad=True)

    def test_an_error_names_the_file(self, source):
        """Also with `skip_bad`, which is about the index: replacing what cannot be read is up to the pipeline."""
        assert source[0].key == "0000001/11"
        with pytest.raises(ImageError, match=r"0000002/21_1\.jpg"):
            source[1]
        with pytest.raises(ImageError, match=r"0000002/22_0\.jpg"):
            source[2]
        with pytest.raises(BadRecords, match=r"0000003/prompt\.json"):
            source[3]

    def test_the_pipeline_goes_on_with_the_readable_ones(self, source, caplog):
        settings = {"batch_size": 4, "seed": 0, "resolution": 8, "flip": False, "repeat": False}
        with caplog.at_level(logging.WARNING):
            (batch,) = edit_batches(source, lambda sources, texts, rewards: tuple(texts), skip_bad=True, **settings)
        assert batch.inputs == ("make it snow",) * 4
        assert caplog.text.count("replaced by another record") == 3  # each is logged once
        assert "3 bad records so far" in caplog.text
        assert "21_1.jpg" in caplog.text

    def test_nothing_readable_is_an_error_even_then(self, ip2p):
        for image in ip2p.glob("*/*.jpg"):
            image.unlink()
        source = InstructPix2PixFolder(ip2p, skip_bad=True)
        settings = {"batch_size": 4, "seed": 0, "resolution": 8, "flip": False}
        with pytest.raises(BadRecords, match=r"32 records"):
            next(edit_batches(source, lambda sources, texts, rewards: None, skip_bad=True, **settings))


class TestInstructions:
    """They are read without the images, whose files are removed here."""

    @pytest.fixture
    def textual(self, ip2p):
        for image in ip2p.rglob("*.jpg"):
            image.unlink()
        return ip2p

    def test_those_of_folders_are_those_of_the_records(self, textual):
        source = InstructPix2PixFolder(textual)
        assert source.instructions() == ["make it snow", "make it blue", "turn it blue", "remove the dog"]
        (textual / "0000003" / "prompt.json").write_text("{")
        assert source.instructions() == ["make it snow", "make it blue", "turn it blue"]

    def test_those_of_rewards_are_those_of_the_records(self, textual):
        (textual / "rewards.json").write_text(json.dumps({"0000003": _reward(5, 4, 3), "0000001": _reward(0, 0, 0)}))
        source = RewardEditFolder(textual, textual / "rewards.json")
        assert source.instructions() == ["remove the dog", "make it snow"]

    def test_of_many_folders_a_sample_is_read(self):
        assert list(evenly_spaced(5, 10)) == [0, 1, 2, 3, 4]
        assert list(evenly_spaced(25, 10)) == [0, 3, 6, 9, 12, 15, 18, 21, 24]
        assert list(evenly_spaced(0)) == []
        assert len(evenly_spaced(313_010)) <= 2000


class TestRewardEditFolder:
    def _source(self, root, rewards, **kwargs):
        (root / "RewardEdit_20K.json").write_text(json.dumps(rewards))
        return RewardEditFolder(root, root / "RewardEdit_20K.json", **kwargs)

    def test_a_reward_belongs_to_the_folder_of_its_name(self, ip2p):
        source = self._source(ip2p, {"0000003": _reward(4, 5, 2.5), "0000001": _reward(0, 1, 2)})
        assert len(source) == 2
        record = source[0]
        assert (record.key, record.instruction, _values(record)) == ("0000003", "remove the dog", (140, 150))
        assert record.feedback == ("None", "None", "grainy")
        assert record.scores.dtype == np.float32
        assert record.scores.tolist() == [4, 5, 2.5]

    def test_of_several_pairs_the_first_is_read_and_logged_once(self, ip2p, caplog):
        source = self._source(ip2p, {"0000002": _reward(1, 1, 1)})
        with caplog.at_level(logging.WARNING):
            assert {_values(source[0]) for _ in range(2)} == {(60, 70)}
        assert caplog.text.count("has 2 pairs") == 1

    def test_hidden_files_are_no_pairs(self, ip2p):
        (ip2p / "0000001" / "._11_0.jpg").write_bytes(bytes.fromhex("0005160700020000"))
        (ip2p / "0000001" / "10_0.txt").write_text("no image")
        source = self._source(ip2p, {"0000001": _reward(1, 1, 1)})
        assert _values(source[0]) == (20, 30)

    def test_a_folder_without_images_is_named(self, ip2p):
        (ip2p / "0000001" / "11_0.jpg").unlink()
        with pytest.raises(BadRecords, match=r"0000001: no <seed>_0\.jpg"):
            self._source(ip2p, {"0000001": _reward(1, 1, 1)})[0]

    BAD: ClassVar = {
        "gone": _reward(1, 1, 1),
        "0000001": _reward(1, 1, 1)[:2],
        "0000002": _reward(1, 5.5, 1),
        "0000003": [*_reward(1, 1, 1)[:2], {"Score": 1, "Negative Prompt": None}],
    }

    def test_all_faults_come_in_one_error(self, ip2p):
        expected = (
            r"(?s)4 bad records.*gone: no such folder.*0000001: .*length 3.*"
            r"0000002: \[1\]\.Score=5\.5: .*5\.0.*0000003: \[2\]\.Negative Prompt=None"
        )
        with pytest.raises(BadRecords, match=expected):
            self._source(ip2p, self.BAD)

    @pytest.mark.parametrize("score", [float("nan"), -1, "5", True, None])
    def test_a_score_is_a_number_in_0_to_5(self, ip2p, score):
        with pytest.raises(BadRecords, match="0000001: "):
            self._source(ip2p, {"0000001": _reward(5, 5, score)})

    def test_bad_ones_are_left_out_when_asked(self, ip2p, caplog):
        with caplog.at_level(logging.WARNING):
            source = self._source(ip2p, {**self.BAD, "0000001": _reward(1, 1, 1)}, skip_bad=True)
        assert [source[i].key for i in range(len(source))] == ["0000001"]
        assert "3 bad records" in caplog.text

    def test_the_error_of_a_missing_file_shows_the_layout(self, ip2p):
        with pytest.raises(FileNotFoundError, match=r"(?s)nowhere\.json.*Negative Prompt.*Gstar666/RewardEdit"):
            RewardEditFolder(ip2p, ip2p / "nowhere.json")


class TestInstructPix2PixParquet:
    @staticmethod
    def _write(path, values, rows_per_group=2, broken=()):
        def cell(value, tmp):
            _grey(value).save(tmp)
            return {"bytes": b"cut" if value in broken else tmp.read_bytes(), "path": None}

        tmp = path.with_suffix(".png")
        table = pyarrow.table(
            {
                "original_image": [cell(v, tmp) for v in values],
                "edit_prompt": [f"edit {v}" for v in values],
                "edited_image": [cell(v + 10, tmp) for v in values],
            }
        )
        parquet.write_table(table, path, row_group_size=rows_per_group)

    @pytest.fixture
    def root(self, tmp_path):
        self._write(tmp_path / "train-00000.parquet", [10, 20, 30])
        self._write(tmp_path / "train-00001.parquet", [40, 50])
        return tmp_path

    def test_rows_in_any_order(self, root):
        source = pickle.loads(pickle.dumps(InstructPix2PixParquet(root)))
        assert len(source) == 5
        for i in (4, 0, 2, 1, 3, 3):
            assert source[i].key == source[i - 5].key == f"{i:06d}"
            value = 10 * (i + 1)
            assert (_values(source[i]), source[i].instruction) == ((value, value + 10), f"edit {value}")

    def test_hidden_files_are_not_read(self, root):
        (root / "._train-00000.parquet").write_bytes(bytes.fromhex("0005160700020000"))
        assert len(InstructPix2PixParquet(root)) == 5

    def test_the_column_of_the_instructions(self, root):
        expected = ["edit 10", "edit 20", "edit 30", "edit 40", "edit 50"]
        assert InstructPix2PixParquet(root).instructions() == expected

    def test_files_may_be_named(self, root):
        assert len(InstructPix2PixParquet([root / "train-00001.parquet"])) == 2

    def test_a_broken_image_is_named(self, root):
        self._write(root / "train-00001.parquet", [40, 50], broken=(40,))
        with pytest.raises(ImageError, match=r"original_image of .*train-00001\.parquet row 3"):
            InstructPix2PixParquet(root)[3]

    @pytest.mark.parametrize("text", [None, " "])
    def test_a_text_that_is_missing_is_named(self, root, text):
        cell = {"bytes": b"", "path": None}
        row = {"original_image": cell, "edit_prompt": text, "edited_image": cell}
        schema = parquet.read_schema(root / "train-00000.parquet")
        parquet.write_table(pyarrow.Table.from_pylist([row], schema), root / "train-00002.parquet")
        with pytest.raises(BadRecords, match=r"train-00002\.parquet row 5 of all: edit_prompt="):
            InstructPix2PixParquet(root)[5]

    def test_wrong_files_are_named(self, root, tmp_path):
        parquet.write_table(pyarrow.table({"edit_prompt": ["a"]}), root / "train-00002.parquet")
        with pytest.raises(BadRecords, match=r"00002\.parquet lacks original_image, edited_image"):
            InstructPix2PixParquet(root)
        (root / "train-00002.parquet").write_bytes(b"PAR?")
        with pytest.raises(BadRecords, match=r"00002\.parquet is not parquet"):
            InstructPix2PixParquet(root)

    def test_the_error_of_missing_files_shows_the_layout(self, tmp_path):
        for place in (tmp_path, tmp_path / "nowhere.parquet"):
            with pytest.raises(FileNotFoundError, match=r"(?s)edit_prompt.*timbrooks/"):
                InstructPix2PixParquet(place)
