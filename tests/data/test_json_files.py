import json
from typing import Annotated

import msgspec
import pytest

from rewardedit_jax.data.json_files import convert, read_json, read_list, validate
from rewardedit_jax.data.records import BadRecords, Instruction


class Item(msgspec.Struct):
    text: str
    number: Annotated[float, msgspec.Meta(ge=0, le=5)] = 0.0
    parts: list[str] = []


def write(path, text):
    path.write_bytes(text.encode())
    return path


def values(entries):
    return [(entry.number, entry.name, entry.value) for entry in entries]


class TestReadList:
    def test_lines_have_their_numbers_in_the_file(self, tmp_path):
        """They end at line feeds alone, and blank ones are no entries."""
        path = write(tmp_path / "a.jsonl", '\ufeff{"text": "\u2028"}\r\n \n{"text": "b"}\n')
        entries, faults = read_list(path, Item)
        assert values(entries) == [(0, "line 1", Item("\u2028")), (1, "line 3", Item("b"))]
        assert faults == []

    def test_a_mark_may_begin_any_line(self, tmp_path):
        """Files with marks were joined."""
        path = write(tmp_path / "a.jsonl", '\ufeff{"text": "a\ufeff"}\n\ufeff{"text": "b"}\n\ufeff\n')
        assert [entry.value.text for entry in read_list(path, Item)[0]] == ["a\ufeff", "b"]

    def test_a_list_counts_its_entries(self, tmp_path):
        path = write(tmp_path / "a.json", '\ufeff[{"text": "a"}, 3, {"text": "b", "more": [1]}]')
        entries, faults = read_list(path, Item)
        assert values(entries) == [(0, "entry 0", Item("a")), (2, "entry 2", Item("b"))]
        assert len(faults) == 1
        assert faults[0].startswith("entry 1: ")

    @pytest.mark.parametrize("line", ["{cut", "", '{"text": "a"} x', "NaN", "[" * 3, "'a'"])
    def test_a_line_that_is_not_json_is_one_of_the_faults(self, tmp_path, line):
        path = write(tmp_path / "a.jsonl", f'{{"text": "a"}}\n{line}\n{{"text": "b"}}')
        entries, faults = read_list(path, Item)
        assert [entry.value.text for entry in entries] == ["a", "b"]
        assert [fault.partition(":")[0] for fault in faults] == (["line 2"] if line else [])

    @pytest.mark.parametrize("content", ["{}", '"abc"', "3", "null"])
    def test_a_file_that_is_no_list_is_an_error(self, tmp_path, content):
        with pytest.raises(BadRecords, match=r"a\.json: .*list"):
            read_list(write(tmp_path / "a.json", content), Item)


class TestReadJson:
    def test_the_value_of_a_file(self, tmp_path):
        assert read_json(write(tmp_path / "a.json", '\ufeff{"text": "ä", "number": 3}'), Item) == Item("ä", 3.0)
        assert read_json(write(tmp_path / "a.json", "[1, null]")) == [1, None]

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
    def test_encodings(self, tmp_path, encoding):
        (tmp_path / "a.json").write_text('{"text": "ä雪"}', encoding)
        assert read_json(tmp_path / "a.json", Item) == Item("ä雪")

    def test_what_is_not_json_is_named_with_its_line(self, tmp_path):
        with pytest.raises(BadRecords, match=r"a\.json: line 2: not JSON"):
            read_json(write(tmp_path / "a.json", '{"text":\n}'))

    def test_what_is_not_of_the_type_is_named(self, tmp_path):
        with pytest.raises(BadRecords, match=r"a\.json: text=1: .*str"):
            read_json(write(tmp_path / "a.json", '{"text": 1}'), Item)

    @pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
    def test_another_encoding_is_an_error(self, tmp_path, name):
        (tmp_path / name).write_bytes('["café"]'.encode("latin-1"))
        with pytest.raises(BadRecords, match=rf"{name}: not UTF-8"):
            read_list(tmp_path / name, str)

    def test_a_missing_file_is_an_error(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
            read_json(tmp_path / "nowhere.json")


class TestValidate:
    @pytest.mark.parametrize("number", [0, 5, 3, 2.5, 5.0, -0.0])
    def test_numbers_are_floats(self, number):
        ((entry,), faults) = validate([("x", {"text": "a", "number": number})], Item)
        assert (entry.value.number, type(entry.value.number), faults) == (number, float, [])

    @pytest.mark.parametrize(
        "number", ["true", "NaN", "Infinity", "-Infinity", "1e999", "5.01", "-1", '"3"', "null", "[]"]
    )
    def test_other_numbers_are_faults(self, number):
        entries, faults = validate([("x", json.loads(f'{{"text": "a", "number": {number}}}'))], Item)
        assert entries == []
        assert faults[0].startswith("x: number=")

    def test_a_fault_names_entry_field_and_value(self):
        _, (fault,) = validate([("entry 3", {"text": "a", "parts": ["b", 7]})], Item)
        assert fault.startswith("entry 3: parts[1]=7: ")
        _, (fault,) = validate([("entry 3", {"number": 1})], Item)
        assert "`text`" in fault
        _, (fault,) = validate([("entry 3", {"a": [{"text": 7}]})], dict[str, list[Item]])
        assert fault.startswith("entry 3: ")

    def test_a_blank_text_is_a_fault_with_its_value(self):
        assert validate([("x", " \t")], Instruction)[1] == [r"x: expected a text that is not blank: ' \t'"]

    def test_a_long_value_is_cut(self):
        _, (fault,) = validate([("x", {"text": ["long"] * 1000})], Item)
        assert len(fault) < 200


def test_entries_that_a_function_refuses_are_faults():
    def positive(entry):
        if entry.value < 0:
            raise ValueError("negative")
        return entry.value * 10

    entries, _ = validate([("a", 1), ("b", -1), ("c", 3)], int)
    found, faults = convert(entries, positive)
    assert values(found) == [(0, "a", 10), (2, "c", 30)]
    assert faults == ["b: negative"]
