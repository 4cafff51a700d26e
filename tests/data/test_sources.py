import json
import logging
import pickle
from typing import ClassVar

import numpy as np
import pyarrow
import pytest
from ml_collections import ConfigDict
from paths import ROOT, SHARED_DATA
from PIL import Image
from pyarrow import parquet

from rewardedit_jax.data.bad_records import BadRecords
from rewardedit_jax.data.images import ImageError
from rewardedit_jax.data.instruct_pix2pix import InstructPix2PixFolder, RewardEditFolder
from rewardedit_jax.data.instruct_pix2pix_parquet import InstructPix2PixParquet
from rewardedit_jax.data.sources import open_preferences, open_source
from rewardedit_jax.data.triplets import TripletFile

AURORA = SHARED_DATA / "aurora"


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
        with pytest.raises(IndexError):
            source[4]

    def test_pickled_it_is_the_same(self, ip2p):
        source = InstructPix2PixFolder(ip2p)
        copy = pickle.loads(pickle.dumps(source))
        assert (len(copy), copy[2].key) == (len(source), source[2].key)

    def test_all_faults_of_the_index_come_in_one_error(self, ip2p):
        (ip2p / "seeds.json").write_text(json.dumps([["0000001", ["11"]], ["gone", ["1"]], ["0000002", []], "x"]))
        with pytest.raises(BadRecords, match=r"(?s)3 bad records.*entry 1.*gone.*no such folder.*entry 2.*entry 3"):
            InstructPix2PixFolder(ip2p)

    def test_bad_entries_are_left_out_and_logged_when_asked(self, ip2p, caplog):
        (ip2p / "seeds.json").write_text(json.dumps([["gone", ["1"]], ["0000001", ["11"]]]))
        with caplog.at_level(logging.WARNING):
            source = InstructPix2PixFolder(ip2p, skip_bad=True)
        assert [source[i].key for i in range(len(source))] == ["0000001/11"]
        assert "1 bad record\n" in caplog.text
        assert "gone" in caplog.text

    @pytest.mark.parametrize("prompt", ["{", "{}", '{"edit": []}', '{"edit": ["a", 1]}', "[]"])
    def test_a_bad_prompt_is_named(self, ip2p, prompt):
        (ip2p / "0000001" / "prompt.json").write_text(prompt)
        with pytest.raises(BadRecords, match=r"0000001/prompt\.json"):
            InstructPix2PixFolder(ip2p)[0]

    @pytest.mark.parametrize("missing", ["directory", "seeds.json"])
    def test_a_missing_place_is_told_with_the_layout(self, tmp_path, missing):
        root = tmp_path / "nowhere" if missing == "directory" else tmp_path
        with pytest.raises(FileNotFoundError, match=r"(?s)prompt\.json.*timbrooks/instructpix2pix-clip-filtered"):
            InstructPix2PixFolder(root)


class TestUnreadableImages:
    def test_an_error_names_the_file(self, ip2p):
        (ip2p / "0000002" / "21_1.jpg").write_bytes(b"cut")
        source = InstructPix2PixFolder(ip2p)
        assert source[0].key == "0000001/11"
        with pytest.raises(ImageError, match=r"0000002/21_1\.jpg"):
            source[1]

    def test_the_next_readable_one_stands_in_when_asked(self, ip2p, caplog):
        (ip2p / "0000002" / "21_1.jpg").write_bytes(b"cut")
        (ip2p / "0000002" / "22_0.jpg").unlink()
        (ip2p / "0000003" / "prompt.json").unlink()
        source = InstructPix2PixFolder(ip2p, skip_bad=True)
        with caplog.at_level(logging.WARNING):
            assert [source[i].key for i in (3, 1, 0, 2, 1)] == ["0000001/11"] * 5  # whatever was read before
        assert source.unreadable == {1, 2, 3}
        assert caplog.text.count("left out") == 3  # each told once
        assert "21_1.jpg" in caplog.text

    def test_nothing_readable_is_an_error_even_then(self, ip2p):
        for image in ip2p.glob("*/*.jpg"):
            image.unlink()
        with pytest.raises(BadRecords, match="none of the 4"):
            InstructPix2PixFolder(ip2p, skip_bad=True)[0]


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

    def test_of_several_pairs_the_first_is_taken_and_told_once(self, ip2p, caplog):
        source = self._source(ip2p, {"0000002": _reward(1, 1, 1)})
        with caplog.at_level(logging.WARNING):
            assert {_values(source[0]) for _ in range(2)} == {(60, 70)}
        assert caplog.text.count("has 2 pairs") == 1

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
            r"(?s)4 bad records.*gone: no such folder.*0000001: not a list of 3.*"
            r"0000002: score 5\.5 is outside.*0000003: not .*Negative Prompt"
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

    def test_a_missing_file_is_told_with_the_layout(self, ip2p):
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
            value = 10 * (i + 1)
            assert (_values(source[i]), source[i].instruction) == ((value, value + 10), f"edit {value}")

    def test_files_may_be_named(self, root):
        assert len(InstructPix2PixParquet([root / "train-00001.parquet"])) == 2

    def test_a_broken_image_is_named_or_passed_over(self, root):
        self._write(root / "train-00001.parquet", [40, 50], broken=(40,))
        with pytest.raises(ImageError, match=r"original_image of .*train-00001\.parquet row 3"):
            InstructPix2PixParquet(root)[3]
        assert _values(InstructPix2PixParquet(root, skip_bad=True)[3]) == (50, 60)

    def test_wrong_files_are_named(self, root, tmp_path):
        parquet.write_table(pyarrow.table({"edit_prompt": ["a"]}), root / "train-00002.parquet")
        with pytest.raises(BadRecords, match=r"00002\.parquet lacks original_image, edited_image"):
            InstructPix2PixParquet(root)
        (root / "train-00002.parquet").write_bytes(b"PAR?")
        with pytest.raises(BadRecords, match=r"00002\.parquet is not parquet"):
            InstructPix2PixParquet(root)

    def test_missing_files_are_told_with_the_layout(self, tmp_path):
        for place in (tmp_path, tmp_path / "nowhere.parquet"):
            with pytest.raises(FileNotFoundError, match=r"(?s)edit_prompt.*timbrooks/"):
                InstructPix2PixParquet(place)


class TestTripletFile:
    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "images").mkdir()
        for value in (10, 20, 30):
            _grey(value).save(tmp_path / "images" / f"{value}.png")
        return tmp_path

    def _triplet(self, source=10, edited=20, **more):
        return {
            "input": f"images/{source}.png",
            "output": f"images/{edited}.png",
            "instruction": "brighter",
            **more,
        }

    def _write(self, folder, entries, name="list.json"):
        lines = "\n".join(
            json.dumps(e, ensure_ascii=False) if not isinstance(e, bytes) else e.decode() for e in entries
        )
        (folder / name).write_text(lines if name.endswith("l") else json.dumps(entries), "utf-8")
        return folder / name

    @pytest.mark.parametrize("name", ["list.json", "list.jsonl"])
    def test_paths_are_relative_to_the_file(self, folder, name, monkeypatch):
        entries = [
            self._triplet(),
            self._triplet(20, 30, scores=[5, 0, 2.5], feedback=["None", "a\u2028b", ""]),
        ]
        path = self._write(folder, entries, name)
        monkeypatch.chdir("/")
        source = TripletFile(path)
        first, second = source[0], source[1]
        assert (first.key, first.instruction, _values(first)) == ("0:images/20.png", "brighter", (10, 20))
        assert (first.scores, first.feedback) == (None, None)
        assert (second.scores.tolist(), second.scores.dtype) == ([5, 0, 2.5], np.float32)
        assert second.feedback == ("None", "a\u2028b", "")

    @pytest.mark.parametrize(
        ("bad", "fault"),
        [
            ({"input": "a", "output": "b"}, "no text under instruction"),
            ({"input": 1, "instruction": "x"}, "no text under input, output"),
            ({"scores": [1, 2]}, "scores are not three numbers in 0..5"),
            ({"scores": [1, 2, 5.1]}, "scores are not"),
            ({"scores": [1, 2, True]}, "scores are not"),
            ({"feedback": ["a", "b"]}, "feedback is not three texts"),
            ({"feedback": "abc"}, "feedback is not"),
        ],
    )
    def test_a_malformed_triplet_is_named(self, folder, bad, fault):
        bad = bad if "input" in bad else self._triplet(**bad)
        with pytest.raises(BadRecords, match=rf"(?s)1 bad record\n.*triplet 1 .*{fault}"):
            TripletFile(self._write(folder, [self._triplet(), bad]))

    def test_lines_that_are_not_json_are_listed_or_left_out(self, folder, caplog):
        path = self._write(folder, [self._triplet(), b"{cut", b"3"], "list.jsonl")
        with pytest.raises(BadRecords, match=r"(?s)2 bad records.*triplet 1 \(\{cut\).*triplet 2"):
            TripletFile(path)
        assert len(TripletFile(path, skip_bad=True)) == 1

    def test_keys_are_unique_and_count_as_the_file_does(self, folder):
        path = self._write(folder, [self._triplet(), self._triplet(scores=[9]), self._triplet()])
        source = TripletFile(path, skip_bad=True)
        assert [source[i].key for i in range(2)] == ["0:images/20.png", "2:images/20.png"]

    def test_a_file_that_is_no_list_is_an_error(self, folder):
        for content, fault in [("{", "not JSON"), ("{}", "expected a list")]:
            (folder / "list.json").write_text(content)
            with pytest.raises(BadRecords, match=fault):
                TripletFile(folder / "list.json", skip_bad=True)

    def test_a_missing_file_is_told_with_the_layout(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r'(?s)nowhere\.json.*"input": "images/1\.png"'):
            TripletFile(tmp_path / "nowhere.json")

    def test_the_example_of_the_docs_is_one(self, folder):
        page = (ROOT / "docs" / "data.md").read_text("utf-8")
        (line,) = [line for line in page.splitlines() if line.startswith('{"input"')]
        for name in ("1.png", "1_snow.png"):
            _grey(10).save(folder / "images" / name)
        (folder / "list.jsonl").write_text(line, "utf-8")
        assert TripletFile(folder / "list.jsonl")[0].scores.tolist() == [4, 5, 3.5]

    @pytest.mark.skipif(not AURORA.exists(), reason="../shared/data/aurora is not here")
    def test_reads_aurora(self):
        source = TripletFile(AURORA / "test.json")
        assert len(source) == 112
        assert len({source[i].key for i in range(112)}) == 112
        assert source[0].instruction == "Put a cat on the seat."
        assert source[0].source.shape == (500, 500, 3)
        assert source[0].edited.shape == (1024, 1024, 3)  # the two sizes may differ


@pytest.mark.parametrize("opened", [open_source, open_preferences])
def test_an_unknown_name_of_data_is_refused_with_those_there_are(opened):
    with pytest.raises(ValueError, match=r"data\.name='shape'.*(triplets|preference_file)"):
        opened(ConfigDict({"name": "shape", "root": "."}))
