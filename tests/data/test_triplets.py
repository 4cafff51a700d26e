import json

import numpy as np
import pytest
from paths import ROOT, SHARED_DATA
from PIL import Image

from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.data.triplets import TripletFile

AURORA = SHARED_DATA / "aurora"


def _grey(value, size=8):
    return Image.new("RGB", (size, size), (value, value, value))


def _values(record):
    return int(record.source[0, 0, 0]), int(record.edited[0, 0, 0])


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

    def test_instructions_are_known_without_the_images(self, folder):
        source = TripletFile(self._write(folder, [self._triplet(), self._triplet(9, 9, instruction="turn left")]))
        assert source.instructions() == ["brighter", "turn left"]

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
            ({"input": "a", "output": "b"}, "`instruction`"),
            ({"input": 1, "instruction": "x"}, "input=1: .*str"),
            ({"scores": [1, 2]}, r"scores=\[1, 2\]: .*length 3"),
            ({"scores": [1, 2, 5.1]}, r"scores\[2\]=5\.1: .*5"),
            ({"scores": [-1, 2, 5]}, r"scores\[0\]=-1: .*0"),
            ({"scores": [1, 2, True]}, r"scores\[2\]=True: .*bool"),
            ({"scores": [1, float("nan"), 2]}, r"scores\[1\]=nan"),
            ({"scores": [1, 2, 3], "feedback": ["a", "b"]}, r"feedback=.*length 3"),
            ({"scores": [1, 2, 3], "feedback": "abc"}, "feedback='abc'"),
            ({"scores": [1, 2, 3]}, "no feedback"),
            ({"feedback": ["a", "b", "c"]}, "no scores"),
            ({"instruction": " "}, "instruction=' ': .*not blank"),
            ({"instruction": ""}, "instruction='': .*not blank"),
            ({"input": "../a.png", "output": "b", "instruction": "x"}, r"'\.\./a\.png' .*data\.allow_outside=True"),
            ({"input": "a", "output": "/b.png", "instruction": "x"}, r"'/b\.png' .*data\.allow_outside=True"),
        ],
    )
    def test_a_malformed_triplet_is_named(self, folder, bad, fault):
        bad = bad if "input" in bad else self._triplet(**bad)
        with pytest.raises(BadRecords, match=rf"(?s)1 bad record\n.*entry 1: .*{fault}"):
            TripletFile(self._write(folder, [self._triplet(), bad]))

    def test_images_lie_below_the_folder_unless_allowed(self, folder):
        (folder / "lists").mkdir()
        triplet = {"input": "../images/10.png", "output": str(folder / "images" / "20.png"), "instruction": "brighter"}
        path = self._write(folder / "lists", [triplet])
        assert _values(TripletFile(path, allow_outside=True)[0]) == (10, 20)
        assert len(TripletFile(path, skip_bad=True)) == 0

    @pytest.mark.parametrize("name", ["list.json", "list.jsonl"])
    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
    def test_a_byte_order_mark_is_read(self, folder, name, encoding):
        path = self._write(folder, [self._triplet()], name)
        path.write_text(path.read_text("utf-8"), encoding)
        assert _values(TripletFile(path)[0]) == (10, 20)

    def test_lines_that_are_not_json_are_listed_or_left_out(self, folder, caplog):
        path = self._write(folder, [self._triplet(), b"{cut", b"3"], "list.jsonl")
        with pytest.raises(BadRecords, match=r"(?s)2 bad records.*line 2: not JSON.*line 3: .*object.*3"):
            TripletFile(path)
        assert len(TripletFile(path, skip_bad=True)) == 1

    def test_keys_are_unique_and_count_as_the_file_does(self, folder):
        path = self._write(folder, [self._triplet(), self._triplet(scores=[9]), self._triplet()])
        source = TripletFile(path, skip_bad=True)
        assert [source[i].key for i in range(2)] == ["0:images/20.png", "2:images/20.png"]

    def test_a_file_that_is_no_list_is_an_error(self, folder):
        for content, fault in [("{", "line 1: not JSON"), ("{}", "list.*dict")]:
            (folder / "list.json").write_text(content)
            with pytest.raises(BadRecords, match=fault):
                TripletFile(folder / "list.json", skip_bad=True)

    def test_the_error_of_a_missing_file_shows_the_layout(self, tmp_path):
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
