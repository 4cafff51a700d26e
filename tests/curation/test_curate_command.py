"""The command: its outputs on planted data, resuming, shards, labels, and what it refuses."""

import argparse
import json
import os
import resource
import signal
from collections import Counter

import numpy as np
import pytest
import tensorflow_datasets as tfds
from made_edits import planted, prepared, rows, write_list
from tiny_scorers import shapes_scorer

from rewardedit_jax.curation import curation, scores
from rewardedit_jax.curation.arguments import add_curation_arguments, check_arguments
from rewardedit_jax.data.prepared import PreparedEdits
from rewardedit_jax.scoring.scorer import Scorer

RESULTS = ("facts.jsonl", "scores.jsonl", "provenance.jsonl")


def curate(data, out, *words):
    """(faults, number of edits) of the command."""
    parser = argparse.ArgumentParser()
    add_curation_arguments(parser)
    a = parser.parse_args(["--data", str(data), "--out", str(out), *map(str, words)])
    check_arguments(parser, a)
    return curation.curate(a)


def by_label(data, out, keep=1.0, *words):
    return curate(data, out, "--rule", "labels", "--keep", keep, *words)


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def provenance(out):
    return lines(out / "provenance.jsonl")


def contents(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """A list with one edit of every fate."""
    return write_list(tmp_path_factory.mktemp("listed"), planted()[0])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A prepared data set of ten edits that differ."""
    folder = tmp_path_factory.mktemp("prepared")
    return prepared(write_list(folder / "list", rows(10)), folder / "data")


@pytest.fixture
def scorer(monkeypatch):
    """`Scorer.load` gives a tiny scorer, and blocks have four edits."""
    made = shapes_scorer()
    monkeypatch.setattr(Scorer, "load", lambda *_: made)
    monkeypatch.setattr(scores, "BLOCK", 4)
    return made


def test_every_edit_is_recorded_once_with_its_reason(listed, tmp_path, capsys):
    faults, total = by_label(listed, tmp_path)
    found = provenance(tmp_path)
    assert [line["reason"] for line in found] == planted()[1]
    assert total == len(found) == len({line["key"] for line in found})
    assert [line["kept"] for line in found] == [reason == "kept" for reason in planted()[1]]
    assert found[6]["duplicate_of"] == found[7]["duplicate_of"] == found[5]["key"]
    (fault,) = faults
    assert "broken.png" in fault
    assert "broken.png" in found[-1]["detail"]
    assert (found[0]["judged"], found[0]["value"], found[0]["threshold"]) == ([0.0] * 3, 0.0, 0.0)
    counts = Counter(planted()[1])
    printed = capsys.readouterr().out
    assert all(f"{reason} " in printed and str(count) in printed for reason, count in counts.items())


def test_kept_edits_of_a_list_are_a_data_set_with_unchanged_images(listed, tmp_path):
    by_label(listed, tmp_path)
    kept = PreparedEdits(tmp_path)
    triplets = lines(listed)
    assert kept.keys() == [line["key"] for line in provenance(tmp_path) if line["kept"]]
    assert kept.encoded(0).source == (listed.parent / triplets[0]["input"]).read_bytes()
    assert kept.encoded(0).extra == {"task": "add"}
    assert kept.encoded(0).scores == (0, 0, 0)
    assert len(tfds.builder_from_directory(str(tmp_path)).as_data_source("train")) == 7


def test_prepared_records_are_copied_byte_for_byte(data, tmp_path):
    by_label(data, tmp_path, 0.3)
    source, kept = PreparedEdits(data), PreparedEdits(tmp_path)
    assert kept.keys() == [source.keys()[i] for i in (7, 8, 9)]
    assert [kept.stored(i).data for i in range(3)] == [source.stored(i).data for i in (7, 8, 9)]
    assert kept.digests(0) == source.digests(7)


def test_a_second_curation_of_the_kept_edits_keeps_them(data, tmp_path):
    by_label(data, tmp_path / "a", 0.3)
    by_label(tmp_path / "a", tmp_path / "b", 1.0)
    assert PreparedEdits(tmp_path / "b").keys() == PreparedEdits(tmp_path / "a").keys()


@pytest.mark.parametrize("rule", ["mean", "lcb", "improvement"])
def test_scored_edits(data, tmp_path, scorer, rule):
    assert curate(data, tmp_path, "--scorer", "shapes_scorer", "--rule", rule, "--keep", 4) == ([], 10)
    found, records = provenance(tmp_path), PreparedEdits(data)
    record = records[3]
    score = scorer.score(record.source, record.edited, record.instruction)
    for name in ("following", "quality", "overall", "unchanged"):
        np.testing.assert_allclose(found[3][name], getattr(score, name), rtol=1e-4, atol=1e-5)
    line = lines(tmp_path / "scores.jsonl")[3]
    assert (line["key"], line["scorer"]) == (record.key, scorer.fingerprint)
    np.testing.assert_allclose(line["improvement"], score.improvement, rtol=1e-4, atol=1e-5)
    expected = {
        "mean": score.overall.mean,
        "lcb": score.overall.mean - score.overall.std,
        "improvement": scorer.prefer(score, scorer.score(record.source, record.source, record.instruction)),
    }[rule]
    np.testing.assert_allclose(found[3]["value"], expected, rtol=1e-3, atol=1e-4)
    values = [line["value"] for line in found]
    assert [line["kept"] for line in found] == [value >= sorted(values)[-4] for value in values]
    assert json.loads((tmp_path / "curation.json").read_text())["scorer"] == scorer.fingerprint


def test_stored_scores_replace_the_scorer(data, tmp_path, scorer, monkeypatch):
    curate(data, tmp_path / "a", "--scorer", "shapes_scorer", "--rule", "lcb", "--keep", 4)
    monkeypatch.setattr(Scorer, "load", None)
    stored = ("--scores", tmp_path / "a" / "scores.jsonl", "--facts", tmp_path / "a" / "facts.jsonl")
    for rule in ("lcb", "random"):
        curate(data, tmp_path / rule, *stored, "--rule", rule, "--keep", 4)
        assert not [file for file in (tmp_path / rule).iterdir() if file.name in RESULTS[:2]]
        assert sum(line["kept"] for line in provenance(tmp_path / rule)) == 4
        assert all("overall" in line for line in provenance(tmp_path / rule))
    assert provenance(tmp_path / "lcb") == provenance(tmp_path / "a")
    # Scores of other data are not taken, even where keys are equal.
    others = write_list(tmp_path / "others", rows(10, start=50))
    faults, _ = curate(others, tmp_path / "c", *stored[:2], "--rule", "random", "--keep", 4)
    assert not faults
    assert not [line for line in provenance(tmp_path / "c") if "overall" in line]
    with pytest.raises(ValueError, match="no edit is kept"):
        curate(others, tmp_path / "d", *stored[:2], "--rule", "lcb", "--keep", 4)
    assert {line["reason"] for line in provenance(tmp_path / "d")} == {"not scored"}


def test_a_stopped_run_leaves_the_same_bytes(data, tmp_path, scorer):
    words = ("--scorer", "shapes_scorer", "--rule", "lcb", "--keep", 4)
    curate(data, tmp_path / "whole", *words)
    expected = contents(tmp_path / "whole")
    for cut in (10, 300, 1000, 2000):
        out = tmp_path / f"cut{cut}"
        out.mkdir()
        for name in ("curation.json", "facts.jsonl"):
            (out / name).write_bytes(expected[name])
        (out / "scores.jsonl").write_bytes(expected["scores.jsonl"][:cut])
        curate(data, out, *words)
        assert contents(out) == expected


@pytest.mark.parametrize("count", [2, 3, 5])
def test_shards_leave_the_same_bytes(data, tmp_path, scorer, count):
    words = ("--scorer", "shapes_scorer", "--rule", "lcb", "--keep", 4)
    curate(data, tmp_path / "whole", *words)
    for index in range(1, count + 1):
        curate(data, tmp_path / "parts", *words, "--shard", f"{index}/{count}")
    curate(data, tmp_path / "parts", "--rule", "lcb", "--keep", 4, "--merge")
    parts = {
        name: value for name, value in contents(tmp_path / "parts").items() if "-of-" not in name or "train" in name
    }
    assert parts == contents(tmp_path / "whole")
    # Again, as after a kill.
    curate(data, tmp_path / "parts", "--rule", "lcb", "--keep", 4, "--merge")


def test_a_missing_shard_is_named(data, tmp_path, scorer):
    words = ("--scorer", "shapes_scorer", "--rule", "lcb", "--keep", 4)
    with pytest.raises(FileNotFoundError, match="facts-I-of-N"):
        curate(data, tmp_path, *words, "--merge")
    curate(data, tmp_path, *words, "--shard", "1/2")
    with pytest.raises(ValueError, match=r"4 missing"):
        curate(data, tmp_path, *words, "--merge")


def test_an_edit_that_failed_is_tried_again_and_may_be_kept(tmp_path):
    file = write_list(tmp_path / "list", rows(6))
    image = tmp_path / "list" / "5-1"
    data = image.read_bytes()
    image.unlink()
    faults, total = by_label(file, tmp_path / "out", 2)
    assert (len(faults), total, provenance(tmp_path / "out")[5]["reason"]) == (1, 6, "unreadable")
    image.write_bytes(data)
    assert by_label(file, tmp_path / "out", 2) == ([], 6)
    assert PreparedEdits(tmp_path / "out").keys() == [f"{i}:{i}-1" for i in (4, 5)]
    by_label(file, tmp_path / "again", 2)
    assert (
        contents(tmp_path / "out")["edits-train.index-00000-of-00001.parquet"]
        == (contents(tmp_path / "again")["edits-train.index-00000-of-00001.parquet"])
    )


def labels_file(folder, *labels):
    file = folder / "labels.jsonl"
    file.write_text("".join(json.dumps(label) + "\n" for label in labels))
    return file


def label(key, *values, failures=()):
    texts = [None if value is None else "None" for value in values]
    return {"key": key, "scores": values, "feedback": texts, "failures": failures}


def test_labels_of_a_file(data, tmp_path):
    refused = {"perspective": "quality", "reason": "refused"}
    keys = PreparedEdits(data).keys()
    file = labels_file(
        tmp_path,
        label(keys[0], 5, 5, 5),
        label(keys[1], 4, 4, 4),
        label(keys[2], 1, 1, None, failures=[refused]),
        label("other", 5, 5, 5),
    )
    assert by_label(data, tmp_path / "out", 1, "--labels", file) == ([], 10)
    found = provenance(tmp_path / "out")
    assert [line["reason"] for line in found[:4]] == ["kept", "below threshold", "not judged", "not judged"]
    assert "refused" in found[2]["detail"]
    assert "no label" in found[3]["detail"]
    assert found[1]["judged"] == [4.0] * 3


def test_quotas(data, tmp_path):
    by_label(data, tmp_path, 0.4, "--quota", "task")
    found = provenance(tmp_path)
    assert Counter(line["quota"] for line in found if line["kept"]) == {"add": 2, "move": 2}
    assert {line["quota"]: line["threshold"] for line in found} == {"add": 3.0, "move": 3.5}


def test_a_sheet_of_examples(data, tmp_path):
    by_label(data, tmp_path / "out", 0.3, "--png", tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 10_000


REFUSED = {
    "another rule": (("--rule", "random", "--keep", "0.3"), ("rule: 'labels' there, 'random' now",)),
    "another number": (("--rule", "labels", "--keep", "3"), ("keep: '0.3' there, '3' now",)),
    "too many": (("--rule", "labels", "--keep", "11"), ("--keep 11", "at most 10")),
    "an unknown field": (("--rule", "labels", "--keep", "0.3", "--quota", "style"), ("quota",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_of_another_curation_is_refused(data, tmp_path, case):
    by_label(data, tmp_path, 0.3)
    before = contents(tmp_path)
    words, parts = REFUSED[case]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        curate(data, tmp_path, *words)
    assert all(part in str(error.value) for part in parts)
    assert contents(tmp_path) == before


def test_a_typing_error_does_not_cost_the_folder(data, tmp_path):
    with pytest.raises(ValueError, match="style"):
        by_label(data, tmp_path, 0.3, "--quota", "style")
    by_label(data, tmp_path, 0.3, "--quota", "task")


def test_entries_that_are_no_edits_are_recorded(tmp_path):
    file = write_list(tmp_path / "list", rows(3))
    file.write_text(file.read_text() + '{"input": "0-0"}\nno json\n')
    faults, total = by_label(file, tmp_path / "out")
    assert (len(faults), total) == (2, 5)
    found = provenance(tmp_path / "out")
    assert [line["key"] for line in found[3:]] == ["line 4", "line 5"]
    assert [line["reason"] for line in found] == ["kept"] * 3 + ["unreadable"] * 2
    assert "output" in found[3]["detail"]


def test_what_does_not_fit_the_data_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match=r"--quota style: .*task"):
        by_label(data, tmp_path / "a", 0.3, "--quota", "style")
    with pytest.raises(ValueError, match="labels of other data"):
        by_label(data, tmp_path / "b", 0.3, "--labels", labels_file(tmp_path, label("other", 1, 1, 1)))
    with pytest.raises(FileNotFoundError, match=r"none.jsonl"):
        by_label(data, tmp_path / "c", 0.3, "--labels", tmp_path / "none.jsonl")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(ValueError, match=r"empty.jsonl has no edits"):
        by_label(empty, tmp_path / "d")
    with pytest.raises(FileNotFoundError, match="dataset_info"):
        by_label(tmp_path, tmp_path / "e")
    with pytest.raises(FileNotFoundError, match=r"none.jsonl of scores"):
        by_label(data, tmp_path / "f", 0.3, "--scores", tmp_path / "none.jsonl")


def test_other_data_sets_are_not_overwritten(data, tmp_path):
    before = contents(data)
    with pytest.raises(ValueError, match="folder of --data"):
        by_label(data, data / ".." / "data")
    with pytest.raises(ValueError, match="no curation wrote"):
        by_label(write_list(tmp_path, rows(2)), data)
    assert contents(data) == before


def test_a_folder_of_other_data_or_another_scorer_is_refused(data, tmp_path, scorer, monkeypatch):
    words = ("--scorer", "shapes_scorer", "--rule", "lcb", "--keep", 4)
    curate(data, tmp_path / "out", *words)
    with pytest.raises(ValueError, match="data: "):
        curate(write_list(tmp_path / "others", rows(11)), tmp_path / "out", *words)
    other = shapes_scorer(seed=1)
    monkeypatch.setattr(Scorer, "load", lambda *_: other)
    with pytest.raises(ValueError, match="scorer: "):
        curate(data, tmp_path / "out", *words)
    with pytest.raises(ValueError, match=other.fingerprint):
        curate(data, tmp_path / "new", *words, "--scores", tmp_path / "out" / "scores.jsonl")


@pytest.mark.parametrize(
    "words",
    [
        ("--keep", "0"),
        ("--keep", "1.5"),
        ("--keep", "-1"),
        ("--keep", "nan"),
        ("--keep", "all"),
        ("--near", "32"),
        ("--near", "-2"),
        ("--k", "inf"),
        ("--rule", "best"),
        ("--rule", "lcb"),
        ("--shard", "1/2", "--merge"),
    ],
    ids=" ".join,
)
def test_wrong_arguments(data, tmp_path, words, capsys):
    with pytest.raises(SystemExit):
        by_label(data, tmp_path, 0.4, *words)
    error = capsys.readouterr().err
    assert words[0] in error
    assert not list(tmp_path.iterdir())


def test_a_full_disk_stops_the_run_and_nothing_is_lost(data, tmp_path):
    by_label(data, tmp_path / "whole", 0.5)
    expected = contents(tmp_path / "whole")
    out, before = tmp_path / "out", signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for size in (50, 1000, 5000, 20_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            with pytest.raises(OSError, match=os.strerror(27)):
                by_label(data, out, 0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    by_label(data, out, 0.5)
    assert contents(out) == expected


def test_a_mistyped_scorer_shows_before_images_are_read(data, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no directory nope"):
        curate(data, tmp_path, "--scorer", "nope", "--rule", "lcb", "--keep", 4)
    assert not (tmp_path / "facts.jsonl").exists()
