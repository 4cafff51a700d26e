"""Runs over lists: result files, failed items, retries, shards, merging, input lists, atomic files."""

import json
import re
from dataclasses import dataclass

import msgspec
import pytest

from rewardedit_jax.data.output_files import atomic_write
from rewardedit_jax.data.runs import Failed, ResultFile, Shard, read_list


@dataclass(frozen=True)
class Number:
    name: str
    value: int


@dataclass(frozen=True)
class Square:
    square: int

    def to_json(self):
        return {"square": self.square}


NUMBERS = [Number(name, i) for i, name in enumerate("abcde")]


class Work:
    """Squares numbers; those of `failures` fail as often as it says. `calls` are the values that it was called with."""

    def __init__(self, failures=()):
        self.failures, self.calls = dict(failures), []

    def __call__(self, items):
        for item in items:
            self.calls.append(item.value)
            if self.failures.get(item.value, 0):
                self.failures[item.value] -= 1
                yield item, Failed(f"{item.value} is broken")
            else:
                yield item, Square(item.value**2)


def results(path):
    return ResultFile(path, ("name", "value"), "maker")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_key_result_and_fingerprint(tmp_path):
    file = tmp_path / "new" / "out.jsonl"
    assert results(file).run(NUMBERS[2:3], Work(), "f1") == {}
    assert lines(file) == [{"name": "c", "value": 2, "square": 4, "maker": "f1"}]


def test_stored_items_are_skipped_and_duplicates_are_worked_on_once(tmp_path):
    file, work = tmp_path / "out.jsonl", Work()
    results(file).run(NUMBERS[:2], work, "f1")
    results(file).run([*NUMBERS, *NUMBERS], work, "f1")
    assert work.calls == [0, 1, 2, 3, 4]
    assert [line["value"] for line in lines(file)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cut", [1, 7, -2])
def test_a_half_written_last_line_is_repaired(tmp_path, cut):
    file, work = tmp_path / "out.jsonl", Work()
    results(file).run(NUMBERS, Work(), "f1")
    text = file.read_bytes()
    *kept, last = text.splitlines(keepends=True)
    file.write_bytes(b"".join(kept) + last[:cut])
    results(file).run(NUMBERS, work, "f1")
    assert work.calls == [4]
    assert file.read_bytes() == text


@pytest.mark.parametrize("damage", [bytes(40), b'{"name": "b", "val', b'{"name": "\xff"}'])
def test_a_damaged_line_is_set_aside_and_its_item_tried_again(tmp_path, damage, caplog):
    file, work = tmp_path / "out.jsonl", Work()
    results(file).run(NUMBERS, Work(), "f1")
    first, _, *rest = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([first, damage + b"\n", *rest]))
    results(file).run(NUMBERS, work, "f1")
    assert work.calls == [1]
    assert sorted(line["value"] for line in lines(file)) == [0, 1, 2, 3, 4]
    assert (tmp_path / "out.jsonl.damaged1").read_bytes() == damage + b"\n"
    assert "1 damaged line" in caplog.text


def test_items_in_progress_are_all_that_a_stopped_run_loses(tmp_path):
    file = tmp_path / "out.jsonl"

    def stopped(items):
        yield from list(Work()(items))[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        results(file).run(NUMBERS, stopped, "f1")
    assert [line["value"] for line in lines(file)] == [0, 1]


def test_failed_items_are_kept_with_their_reason_and_tried_by_the_next_run(tmp_path):
    file, work = tmp_path / "out.jsonl", Work({1: 1, 3: 2})
    failed = results(file).run(NUMBERS, work, "f1")
    assert failed == {NUMBERS[1]: Failed("1 is broken"), NUMBERS[3]: Failed("3 is broken")}
    assert [line.get("error") for line in lines(file)] == [None, "1 is broken", None, "3 is broken", None]
    assert list(results(file).run(NUMBERS, work, "f1")) == [NUMBERS[3]]
    assert work.calls == [0, 1, 2, 3, 4, 1, 3]
    assert sorted(line["value"] for line in lines(file)) == [0, 1, 2, 3, 4]


def test_retries_write_an_error_only_once(tmp_path):
    file, work = tmp_path / "out.jsonl", Work({1: 1, 3: 5})
    assert list(results(file).run(NUMBERS, work, "f1", retries=2)) == [NUMBERS[3]]
    assert work.calls == [0, 1, 2, 3, 4, 1, 3, 3]
    assert [(line["value"], "error" in line) for line in lines(file)] == [
        (0, False), (2, False), (4, False), (1, False), (3, True),
    ]  # fmt: skip


def test_incomplete_results_are_made_again(tmp_path):
    file, work = tmp_path / "out.jsonl", Work()
    results(file).run(NUMBERS, Work(), "f1")
    results(file).run(NUMBERS, work, "f1", is_complete=lambda line: line["square"] > 4)
    assert work.calls == [0, 1, 2]
    assert len(lines(file)) == len(NUMBERS)


def test_results_of_another_maker_are_refused(tmp_path):
    file = tmp_path / "out.jsonl"
    results(file).run(NUMBERS, Work(), "f1")
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"line 1 of .*out\.jsonl.*'f1'.*'f2'"):
        results(file).run(NUMBERS, Work(), "f2")
    assert file.read_bytes() == before


@pytest.mark.parametrize("line", ["no JSON", "[1]", '{"name": "a", "value": 0}', '{"name": "a", "maker": "f1"}'])
def test_other_files_are_refused(tmp_path, line):
    file = tmp_path / "out.jsonl"
    file.write_text(f"\n{line}\n")
    with pytest.raises(ValueError, match=r"line 2 of .*out\.jsonl .*name, value, maker"):
        results(file).run(NUMBERS, Work(), "f1")
    assert file.read_text() == f"\n{line}\n"


# Shards


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_share_the_items(count):
    shards = [Shard(i, count).of(NUMBERS) for i in range(1, count + 1)]
    for k, item in enumerate(NUMBERS):
        assert [item in shard for shard in shards] == [i == k % count for i in range(count)]
    assert Shard.parse(f"1/{count}").of([*NUMBERS, *NUMBERS]) == shards[0]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/", "a/b", "-1/2", "1/2/3", "1.0/2"])
def test_invalid_shards_are_refused(text):
    with pytest.raises(ValueError, match=f"{text!r}.*I/N"):
        Shard.parse(text)


@pytest.fixture
def parts(tmp_path):
    """The outputs of two shards; item d failed."""
    files = [tmp_path / f"part{i}.jsonl" for i in (1, 2)]
    for i, file in enumerate(files, 1):
        results(file).run(Shard(i, 2).of(NUMBERS), Work({3: 1}), "f1")
    return files


def test_merged_shards_are_the_whole_run(tmp_path, parts):
    whole, merged = tmp_path / "whole.jsonl", tmp_path / "merged.jsonl"
    results(whole).run(NUMBERS, Work({3: 1}), "f1")
    assert results(merged).merge(parts, NUMBERS) == {NUMBERS[3]: Failed("3 is broken")}
    assert merged.read_bytes() == whole.read_bytes()
    assert results(merged).run(NUMBERS, Work(), "f1") == {}
    assert all("square" in line for line in lines(merged))


def test_what_is_missing_doubled_or_foreign_is_named(tmp_path, parts):
    merged = tmp_path / "merged.jsonl"
    with pytest.raises(ValueError, match=r"list of 5 items.* 2 missing: b 1; d 3"):
        results(merged).merge(parts[:1], NUMBERS)
    with pytest.raises(ValueError, match="3 found twice: a 0; c 2; e 4"):
        results(merged).merge([*parts, parts[0]], NUMBERS)
    with pytest.raises(ValueError, match="1 not in the list: e 4"):
        results(merged).merge(parts, NUMBERS[:4])
    parts[0].write_bytes(parts[0].read_bytes()[:-3])  # the last item is half written
    with pytest.raises(ValueError, match="1 missing: e 4"):
        results(merged).merge(parts, NUMBERS)
    assert not merged.exists()


def test_shards_of_different_makers_are_not_merged(tmp_path, parts):
    parts[1].unlink()
    results(parts[1]).run(Shard(2, 2).of(NUMBERS), Work(), "f2")
    with pytest.raises(ValueError, match="f1, f2"):
        results(tmp_path / "merged.jsonl").merge(parts, NUMBERS)


def test_merging_replaces_no_file(tmp_path, parts):
    before = parts[0].read_bytes()
    with pytest.raises(FileExistsError, match=r"part1\.jsonl"):
        results(parts[0]).merge(parts, NUMBERS)
    assert parts[0].read_bytes() == before


# Input lists and whole files


class Named(msgspec.Struct):
    name: str


def test_lists_are_parsed_line_by_line(tmp_path):
    listing = tmp_path / "list.jsonl"
    listing.write_text('{"name": "a"}\n\n{"name": "b"}\n', "utf-8-sig")
    found = read_list(listing, Named, lambda i, entry: [Number(entry.name, i)] * 2, "{}")
    assert found == ([Number("a", 0), Number("a", 0), Number("b", 1), Number("b", 1)], [])


@pytest.mark.parametrize(
    ("line", "fault"),
    [("{", "property name"), ("[1]", "array"), ("{}", "field `name`"), ('{"name": "refuse"}', "refused")],
)
def test_bad_lines_are_listed_and_the_others_parsed(tmp_path, line, fault):
    def parse(i, entry):
        if entry.name == "refuse":
            raise ValueError("refused")
        return [Number(entry.name, i)]

    listing = tmp_path / "list.jsonl"
    listing.write_text(f'{{"name": "a"}}\n{line}\n{{"name": "b"}}\n{line}')
    items, faults = read_list(listing, Named, parse, "EXAMPLE")
    assert items == [Number("a", 0), Number("b", 2)]
    assert [re.search(rf"list\.jsonl, line (\d): .*{fault}", one)[1] for one in faults] == ["2", "4"]
    listing.write_text(f"{line}\n{line}")
    with pytest.raises(ValueError, match=rf"(?s)list\.jsonl: .*EXAMPLE.*line 1: .*{fault}.*line 2: "):
        read_list(listing, Named, parse, "EXAMPLE")


def test_an_empty_list_is_an_error(tmp_path):
    (tmp_path / "list.jsonl").write_text("\n \n")
    with pytest.raises(ValueError, match=r"list\.jsonl is empty"):
        read_list(tmp_path / "list.jsonl", Named, lambda i, entry: [], "{}")


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path):
    file = tmp_path / "new" / "out.txt"
    with atomic_write(file) as unfinished:
        unfinished.write_text("first")
        assert not file.exists()

    def stopped():
        with atomic_write(file) as unfinished:
            unfinished.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert file.read_text() == "first"
    assert [path.name for path in file.parent.iterdir()] == ["out.txt"]
