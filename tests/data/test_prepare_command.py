"""Every layout, prepared and read again: the records are those of the source's own reader, the bad ones are named."""

import json
import shutil
from dataclasses import fields, is_dataclass

import numpy as np
import pyarrow
import pytest
import tensorflow_datasets as tfds
from made_sets import DAMAGED, LISTS, MADE, command, gedit_rows, make, pair_rows, write, write_rows
from ml_collections import ConfigDict
from pyarrow import parquet

from rewardedit_jax.data.layouts import LAYOUTS, Options
from rewardedit_jax.data.open_edits import open_edits
from rewardedit_jax.data.parquet import ParquetRows
from rewardedit_jax.data.prepare_command import layouts_help
from rewardedit_jax.data.prepared import PreparedEdits
from rewardedit_jax.data.prepared_pairs import PreparedPairs
from rewardedit_jax.data.prepared_requests import PreparedRequests
from rewardedit_jax.data.preparing import EDITS, PAIRS, REQUESTS
from rewardedit_jax.data.records import BadRecords, PreferenceSource
from rewardedit_jax.editing.recipe import SOURCES
from rewardedit_jax.scoring.pairs import TIES
from rewardedit_jax.scoring.recipe import PREFERENCES

READERS = {id(EDITS): PreparedEdits, id(PAIRS): PreparedPairs, id(REQUESTS): PreparedRequests}


def read(name, folder):
    return READERS[id(LAYOUTS[name].kind)](folder)


def plain(value):
    """A value that `==` compares, arrays included."""
    if isinstance(value, np.ndarray):
        return value.dtype.name, value.shape, value.tobytes()
    if is_dataclass(value):
        return {
            f.name: plain(getattr(value, f.name)) for f in fields(value) if (type(value).__name__, f.name) != ("", "")
        }
    return value


@pytest.fixture
def made(tmp_path):
    """Function: name → source and further arguments of a made set."""
    return lambda name: make(name, tmp_path / name)


def test_every_layout_is_made_here():
    assert MADE.keys() == LAYOUTS.keys()
    assert all(name in layouts_help() for name in LAYOUTS)


@pytest.mark.parametrize("name", MADE)
def test_what_is_prepared_is_what_the_source_reads(name, made, tmp_path):
    source, arguments = made(name)
    bad, total = command(name, "--source", source, "--out", tmp_path / "out", "--per-shard", 2, *arguments)
    rewards = arguments[1:] and source.parent / "rewards.json"
    original = LAYOUTS[name].open(source, Options(rewards=rewards or None))
    prepared = read(name, tmp_path / "out")
    assert total == len(original)
    assert len(prepared) == total - 1
    faults = {}
    for number in range(total):
        try:
            original.encoded(number).decoded()
        except ValueError as error:
            faults[number] = str(error)
    good = [number for number in range(total) if number not in faults]
    assert bad == list(faults.values())
    assert prepared.keys() == [original.keys()[number] for number in good]
    for number, own in zip(range(len(prepared)), good, strict=True):
        stored, expected = prepared.encoded(number), original.encoded(own)
        images = [f.name for f in fields(stored) if isinstance(getattr(stored, f.name), bytes)]
        assert [getattr(stored, image) for image in images] == [getattr(expected, image) for image in images]
        assert plain(stored.decoded()) == plain(expected.decoded())
        assert getattr(stored, "extra", None) == getattr(expected, "extra", None)
        assert getattr(stored, "edit_type", None) == getattr(expected, "edit_type", None)
    # Other programs read it too.
    assert len(tfds.builder_from_directory(str(tmp_path / "out")).as_data_source("train")) == total - 1
    (line,) = map(json.loads, (tmp_path / "out" / "bad.jsonl").read_text().splitlines())
    assert line["reason"] == bad[0]


@pytest.mark.parametrize("name", MADE)
def test_bytes_do_not_depend_on_the_machines(name, made, tmp_path):
    source, arguments = made(name)
    sources = ["--source", source, "--per-shard", 1, *arguments]
    bad, _ = command(name, "--out", tmp_path / "whole", *sources)
    for part in ("1/2", "2/2"):
        command(name, "--out", tmp_path / "shared", "--shard", part, *sources)
        command(name, "--out", tmp_path / "parts" / part[0], "--shard", part, *sources)
    shutil.rmtree(tmp_path / name)  # a merge reads no source
    assert command(name, "--out", tmp_path / "shared", "--merge")[0] == bad
    parts = (tmp_path / "parts" / "1", tmp_path / "parts" / "2")
    assert command(name, "--out", tmp_path / "merged", "--merge", *parts)[0] == bad
    contents = [
        {file.name: file.read_bytes() for file in (tmp_path / folder).iterdir()}
        for folder in ("whole", "shared", "merged")
    ]
    assert contents[0] == contents[1] == contents[2]


@pytest.mark.parametrize("name", [name for name in MADE if name != "reward_edit"])
def test_a_wrong_layout_shows_the_expected_one(name, tmp_path):
    (tmp_path / "empty").mkdir()
    source = tmp_path / "empty" / LISTS.get(name, "")
    arguments = ["--source", source, "--out", tmp_path / "out"]
    with pytest.raises(FileNotFoundError, match="expected"):
        LAYOUTS[name].open(source, Options())
    with pytest.raises(FileNotFoundError, match="expected"):
        command(name, *arguments)
    assert not (tmp_path / "out").exists()


def test_rewards_are_asked_for(made, tmp_path):
    source, _ = made("reward_edit")
    with pytest.raises(ValueError, match="--rewards"):
        command("reward_edit", "--source", source, "--out", tmp_path / "out")


def test_entries_of_an_index_are_bad_inputs_too(made, tmp_path):
    source, _ = made("triplets")
    rows = json.loads(source.read_text())
    outside = {**rows[0], "input": "../secret.png"}
    write(source, [rows[0], outside, {**rows[0], "instruction": " "}, rows[2]])
    bad, total = command("triplets", "--source", source, "--out", tmp_path / "out")
    assert (total, len(bad)) == (4, 2)
    assert "entry 2: instruction=' '" in bad[0]
    assert "'../secret.png' lies outside" in bad[1]
    assert PreparedEdits(tmp_path / "out").keys() == ["0:images/20.png", "3:images/30.png"]


def test_several_inputs_of_an_edit_are_a_bad_record(made, tmp_path):
    source, _ = made("sharegpt_4o")
    listing = source / "text_and_image_to_image.json"
    rows = json.loads(listing.read_text())
    rows[2]["input_image"] *= 2
    write(listing, [*rows, {**rows[0], "output_image": "/etc/passwd"}])
    bad, total = command("sharegpt_4o", "--source", source, "--out", tmp_path / "out")
    assert (total, len(bad)) == (4, 2)
    assert "entry 2: input_image has 2 images" in bad[0]
    assert "/etc/passwd" in bad[1]


def test_an_archive_that_is_cut_is_named(made):
    source, _ = made("sharegpt_4o")
    write(source / "text_and_image_to_image_part_1.tar", b"not an archive")
    with pytest.raises(BadRecords, match=r"part_1\.tar"):
        LAYOUTS["sharegpt_4o"].open(source, Options())


def test_turns_of_a_session_are_neighbours(made, tmp_path):
    source, _ = made("magicbrush")
    command("magicbrush", "--source", source, "--out", tmp_path / "out")
    edits = PreparedEdits(tmp_path / "out")
    assert [tuple(edits.encoded(i).extra.values()) for i in range(3)] == [("77", 1), ("77", 2), ("12", 1)]
    assert edits.digests(0)[1] == edits.digests(1)[0]  # a turn starts from the edit before
    command("magicbrush", "--source", source, "--out", tmp_path / "dev", "--split", "dev")
    assert PreparedEdits(tmp_path / "dev").keys() == ["0:12/1"]


def test_pairs_train_a_scorer(made, tmp_path):
    """As `config.data.name=prepared` of configs/edit_reward.py."""
    source, _ = made("editreward_data")
    command("editreward_data", "--source", source, "--out", tmp_path / "out", "--per-shard", 1)
    pairs = PreparedPairs(tmp_path / "out")
    assert isinstance(pairs, PreferenceSource)
    assert [label.preferred for label in pairs.labels] == ["a", "tie"]
    # Not rounded to float32. The pairs of the second shard have no rating at all.
    assert [label.ratings_a for label in pairs.labels] == [(4.0, 2.33), None]


def test_recipes_read_both_kinds(made, tmp_path):
    for name in ("preferences", "triplets"):
        command(name, "--source", made(name)[0], "--out", tmp_path / name / "out")
    settings = {"labels": "", "skip_bad": False}
    edits = SOURCES["prepared"](ConfigDict({**settings, "root": str(tmp_path / "triplets" / "out")}))
    pairs = PREFERENCES["prepared"](ConfigDict({**settings, "root": str(tmp_path / "preferences" / "out")}))
    assert edits[0].instruction == pairs[0].instruction == "edit 0"
    assert [len(treat(pairs.labels)) for treat in TIES.values()] == [2, 2, 2, 2]


def test_verdicts_of_the_benchmark_of_pairs(made):
    labels = LAYOUTS["editreward_bench"].open(made("editreward_bench")[0], Options()).labels
    assert [label.preferred for label in labels] == ["b", "tie", "a", "b"]
    assert labels[0].ratings_b == (1.0, 2.0)
    assert labels[2].names[2] == labels[3].names[2] == "3pair 3 C"


@pytest.mark.parametrize("change", [{"ranking": "A>D"}, {"comparison_type": "AvsA"}, {"visual_quality_1": None}])
def test_a_row_of_the_benchmark_that_makes_no_sense_is_named(made, tmp_path, change):
    source, _ = made("editreward_bench")
    file = source / "3pair" / "b.parquet"
    rows = parquet.read_table(file).to_pylist()
    write_rows(file, [rows[0], rows[1] | change])
    found = LAYOUTS["editreward_bench"].open(source, Options())
    assert len(found) == 3
    assert len(found.faults) == 1
    assert "b.parquet row 3 of all" in found.faults[0]


def test_requests_have_their_types(made, tmp_path):
    command("real_edit", "--source", made("real_edit")[0], "--out", tmp_path / "out")
    requests = PreparedRequests(tmp_path / "out")
    assert requests.edit_types() == ["local", "style"]
    # As the published evaluation reads them: what follows the last ": ".
    assert requests.instructions() == ["Make the cup red.", "a sketch"]
    assert requests.keys() == ["1.jpg/1", "1.jpg/2"]


def test_lines_of_real_edit_that_make_no_sense_are_named(made):
    source, _ = made("real_edit")
    lines = {"1.jpg": ["Remove: the cup", "9. Local: x", "no type", "2. Remove: "], "../x.jpg": ["1. Local: x"], "y": 3}
    write(source / "real_edit_instruct.json", lines)
    found = LAYOUTS["real_edit"].open(source, Options())
    assert [found._requests[0].value[1:]] == [("the cup", "remove")]
    assert len(found) == 1
    text = "\n".join(found.faults)
    assert all(name in text for name in ("1.jpg/2", "1.jpg/3", "1.jpg/4", "../x.jpg/1", "y"))


def test_gedit_bench_in_parquet_is_the_same(made, tmp_path):
    arrow = LAYOUTS["gedit_bench"].open(made("gedit_bench")[0], Options())
    write_rows(tmp_path / "p" / "0.parquet", gedit_rows())
    rows = LAYOUTS["gedit_bench"].open(tmp_path / "p", Options())
    assert rows.keys() == arrow.keys() == ["en/0abc", "en/1abc", "cn/0abc", "cn/1abc"]
    assert [plain(rows.encoded(i).decoded()) for i in (0, 1, 3)] == [
        plain(arrow.encoded(i).decoded()) for i in (0, 1, 3)
    ]
    assert arrow.encoded(3).extra == {"language": "cn", "intersection": True}


def test_an_arrow_file_that_is_none_or_lacks_columns_is_named(made):
    source, _ = made("gedit_bench")
    table = pyarrow.table({"key": ["a"]})
    file = source / "data-00000-of-00002.arrow"
    with pyarrow.ipc.new_stream(str(file), table.schema) as stream:
        stream.write_table(table)
    with pytest.raises(BadRecords, match=r"data-00000.*lacks task_type"):
        LAYOUTS["gedit_bench"].open(source, Options())
    write(file, b"nothing")
    with pytest.raises(BadRecords, match=r"data-00000.*not an Arrow"):
        LAYOUTS["gedit_bench"].open(source, Options())


def test_another_source_or_set_is_refused(made, tmp_path):
    source, _ = made("triplets")
    command("triplets", "--source", source, "--out", tmp_path / "out")
    rows = json.loads(source.read_text())
    rows[0]["instruction"] = "another"
    write(source, rows)
    with pytest.raises(ValueError, match=r"begun with other settings.*records.*another folder"):
        command("triplets", "--source", source, "--out", tmp_path / "out")
    write(source, rows[:2])
    with pytest.raises(ValueError, match="count: 3 there, 2 now"):
        command("triplets", "--source", source, "--out", tmp_path / "out")


def test_a_folder_has_one_data_set(made, tmp_path):
    for name in ("triplets", "preferences"):
        made(name)
    command("triplets", "--source", tmp_path / "triplets" / "list.json", "--out", tmp_path / "out")
    before = (tmp_path / "out" / "dataset_info.json").read_bytes()
    with pytest.raises(ValueError, match="out has the data set triplets-train, asked for is preferences-train"):
        command("preferences", "--source", tmp_path / "preferences" / "pairs.json", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "dataset_info.json").read_bytes() == before


def test_texts_that_are_no_unicode_are_bad_records(made, tmp_path):
    source, _ = made("triplets")
    rows = json.loads(source.read_text())
    rows[0]["instruction"] = "a lone \ud800 surrogate"
    rows[1]["output"] = "images/\ud801.png"
    write(source, rows)
    bad, _ = command("triplets", "--source", source, "--out", tmp_path / "out")
    assert "'0:images/20.png': instruction has a lone surrogate" in bad[0]
    assert "surrogate" in bad[1]
    assert PreparedEdits(tmp_path / "out").keys() == ["2:images/30.png"]


def test_parquet_of_one_size_is_told_apart(made, tmp_path):
    """Its keys are numbers of rows."""
    source, _ = made("instruct_pix2pix_parquet")
    command("instruct_pix2pix_parquet", "--source", source, "--out", tmp_path / "out")
    (file,) = source.rglob("*.parquet")
    rows = parquet.read_table(file).to_pylist()
    write_rows(file, [rows[0] | {"edit_prompt": "another"}, *rows[1:]])
    with pytest.raises(ValueError, match="begun with other settings"):
        command("instruct_pix2pix_parquet", "--source", source, "--out", tmp_path / "out")


def test_two_records_of_one_key_are_refused(tmp_path):
    rows = gedit_rows()
    write_rows(tmp_path / "s" / "0.parquet", [rows[0], rows[0]])
    with pytest.raises(BadRecords, match=r"1 keys.*en/0abc"):
        command("gedit_bench", "--source", tmp_path / "s", "--out", tmp_path / "out")


def test_an_empty_source_is_refused(tmp_path):
    with pytest.raises(BadRecords, match="no records"):
        command("triplets", "--source", write(tmp_path / "list.json", []), "--out", tmp_path / "out")


def test_nothing_good_is_an_error_with_a_report(made, tmp_path):
    source, _ = made("triplets")
    for file in (source.parent / "images").iterdir():
        file.write_bytes(DAMAGED)
    with pytest.raises(ValueError, match=r"none of the 3 inputs.*10\.png"):
        command("triplets", "--source", source, "--out", tmp_path / "out")
    assert len((tmp_path / "out" / "bad.jsonl").read_text().splitlines()) == 3
    with pytest.raises(FileNotFoundError, match="not finished"):
        open_edits(tmp_path / "out")


def test_a_merge_finds_missing_and_doubled_shards(made, tmp_path):
    source, _ = made("triplets")
    arguments = ["--source", source, "--per-shard", 1]
    for part, shard in (("a", "1/3"), ("b", "2/3"), ("c", "1/3")):
        command("triplets", "--out", tmp_path / part, "--shard", shard, *arguments)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="1 missing: 2"):
        command("triplets", "--out", out, "--merge", tmp_path / "a", tmp_path / "b")
    with pytest.raises(ValueError, match="1 missing: 2; 1 found twice: 0"):
        command("triplets", "--out", out, "--merge", tmp_path / "a", tmp_path / "b", tmp_path / "c")
    with pytest.raises(ValueError, match="lacks 2 of 3 shards of triplets-train: 1, 2"):
        command("triplets", "--out", tmp_path / "a", "--merge")
    with pytest.raises(FileNotFoundError, match="nowhere has no shards of triplets-train"):
        command("triplets", "--out", out, "--merge", tmp_path / "a", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ValueError, match="--merge excludes --shard"):
        command("triplets", "--out", out, "--shard", "1/2", "--merge")


def test_a_merge_goes_on(made, tmp_path):
    source, _ = made("triplets")
    for shard in ("1/2", "2/2"):
        command("triplets", "--source", source, "--per-shard", 1, "--out", tmp_path / shard[0], "--shard", shard)
    parts = [tmp_path / "1", tmp_path / "2"]
    command("triplets", "--out", tmp_path / "out", "--merge", *parts)
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "triplets-train.report-00001-of-00003.json").unlink()  # stopped before it was written
    (tmp_path / "out" / "dataset_info.json").unlink()
    command("triplets", "--out", tmp_path / "out", "--merge", *parts)
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


def test_parts_of_other_data_are_not_merged(made, tmp_path):
    source, _ = made("triplets")
    command("triplets", "--source", source, "--per-shard", 1, "--out", tmp_path / "a", "--shard", "1/2")
    rows = json.loads(source.read_text())
    write(source, [*rows[:2], {**rows[2], "instruction": "another"}])
    command("triplets", "--source", source, "--per-shard", 1, "--out", tmp_path / "b", "--shard", "2/2")
    with pytest.raises(ValueError, match=r"/b was begun with other settings \(records"):
        command("triplets", "--out", tmp_path / "out", "--merge", tmp_path / "a", tmp_path / "b")


def test_row_groups_are_decoded_once(tmp_path, monkeypatch):
    """By threads that read ahead: a group may hold a gigabyte of images."""
    rows = [pair_rows()[0] | {"unique_key": f"{i}"} for i in range(90)]
    write_rows(tmp_path / "data" / "0.parquet", rows, group=9)
    decoded = []
    original = ParquetRows._decode
    monkeypatch.setattr(ParquetRows, "_decode", lambda self, *group: decoded.append(group[1]) or original(self, *group))
    command("editreward_data", "--source", tmp_path / "data", "--out", tmp_path / "out", "--per-shard", 20)
    assert decoded == list(range(10))
