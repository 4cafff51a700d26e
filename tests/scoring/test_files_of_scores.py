"""Scores of image files: jobs, result files, shards, launch/score.py."""

import json
import os
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import ROOT
from tiny_scorers import shapes_scorer

from rewardedit_jax.scoring.files import ScoreJob, listed_scores, merge_scores, plan_scores, score_jobs, score_to_file

INSTRUCTION = "make it snow"


@pytest.fixture(scope="module")
def scorer():
    return shapes_scorer()


@pytest.fixture
def folder(tmp_path):
    """sources/ and edits/ with the pictures 0.png, 1.png, 2.png each."""
    for k, kind in enumerate(("sources", "edits")):
        (tmp_path / kind).mkdir()
        for i in range(3):
            pixels = np.random.default_rng([k, i]).integers(0, 256, (56, 56, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{i}.png")
    return tmp_path


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_folders_meet_by_name(folder):
    jobs, _ = plan_scores(folder / "sources", [folder / "edits"], INSTRUCTION)
    found = [(job.source, job.edited) for job in jobs]
    assert found == [(str(folder / "sources" / f"{i}.png"), str(folder / "edits" / f"{i}.png")) for i in range(3)]


def test_folders_meet_whatever_the_endings(folder):
    (folder / "sources" / "1.png").rename(folder / "sources" / "1.bmp")
    Image.open(folder / "sources" / "2.png").save(folder / "sources" / "2.bmp")  # the same name goes first
    jobs, _ = plan_scores(folder / "sources", [folder / "edits"], INSTRUCTION)
    assert [job.source for job in jobs] == [str(folder / "sources" / name) for name in ("0.png", "1.bmp", "2.png")]


def test_a_folder_of_edits_of_one_source(folder):
    source, other = folder / "sources" / "0.png", folder / "sources" / "1.png"
    jobs, _ = plan_scores(source, [other, folder / "edits"], INSTRUCTION)
    assert [job.edited for job in jobs] == [str(other), *(str(folder / "edits" / f"{i}.png") for i in range(3))]
    (folder / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"no images in .*nothing"):
        plan_scores(source, [folder / "nothing"], INSTRUCTION)


def test_lists_name_one_edit_or_several(folder):
    listing = folder / "list.jsonl"
    several = {"source": "sources/0.png", "edited": ["edits/0.png", "edits/1.png"]}
    single = {**several, "edited": "edits/2.png", "instruction": "other"}
    listing.write_text("\n".join(map(json.dumps, [several, single])))
    jobs, _ = listed_scores(listing, INSTRUCTION)
    assert [job.instruction for job in jobs] == [INSTRUCTION, INSTRUCTION, "other"]
    assert jobs[1] == ScoreJob(str(folder / "sources/0.png"), str(folder / "edits/1.png"), INSTRUCTION)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"source": "a.png"}', "line 1: .*field `edited`"),
        ("[1]", r"line 1: .*\[1\]"),
        ("{", "line 1: not JSON"),
        ('{"source": "a.png", "edited": "b.png"}', "line 1: .*no instruction"),
        ('{"source": "a.png", "edited": [], "instruction": "x"}', r"line 1: edited=\[\]: .*length >= 1"),
        (" \n", r"list\.jsonl is empty"),
    ],
)
def test_malformed_lines_are_reported(tmp_path, line, message):
    (tmp_path / "list.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        listed_scores(tmp_path / "list.jsonl", None)


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path):
    line = '{"source": "a.png", "edited": "b.png"}'
    (tmp_path / "list.jsonl").write_text(line, "utf-8-sig")
    job = ScoreJob(str(tmp_path / "a.png"), str(tmp_path / "b.png"), "x")
    assert listed_scores(tmp_path / "list.jsonl", "x") == ([job], [])


def test_two_sources_of_one_name_are_distinguished_by_suffix_or_are_an_error(folder):
    (folder / "sources" / "1.jpg").write_bytes(b"")
    jobs, _ = plan_scores(folder / "sources", [folder / "edits"], INSTRUCTION)
    assert jobs[1].source == str(folder / "sources" / "1.png")
    (folder / "edits" / "1.png").rename(folder / "edits" / "1.webp")
    jobs, (fault,) = plan_scores(folder / "sources", [folder / "edits"], INSTRUCTION)
    assert [Path(job.edited).name for job in jobs] == ["0.png", "2.png"]
    assert re.search(r"1\.webp .*1\.jpg, .*1\.png", fault)
    for i in (0, 2):
        (folder / "edits" / f"{i}.png").unlink()
    with pytest.raises(ValueError, match=r"1\.webp .*1\.jpg, .*1\.png"):
        plan_scores(folder / "sources", [folder / "edits"], INSTRUCTION)


def test_invalid_arguments_are_reported(folder):
    with pytest.raises(ValueError, match="--instruction"):
        plan_scores(folder / "sources", [folder / "edits"], None)
    with pytest.raises(ValueError, match="--edited"):
        plan_scores(folder / "sources", [folder / "edits" / "0.png"], INSTRUCTION)
    for i in range(3):
        (folder / "sources" / f"{i}.png").rename(folder / "sources" / f"other{i}.png")
    with pytest.raises(ValueError, match=r"no edit in .*edits .*sources"):
        plan_scores(folder / "sources", [folder / "edits"], INSTRUCTION)


def test_images_without_a_partner_are_left_out_and_named(folder, caplog):
    """Also what is no image, whatever its name: here a sidecar that macOS writes beside a copy."""
    (folder / "sources" / "1.png").unlink()
    (folder / "edits" / "2.png").unlink()
    for kind in ("sources", "edits"):
        (folder / kind / "._0.png").write_bytes(bytes.fromhex("00051607000200000000000000000000"))
    (job,), faults = plan_scores(folder / "sources", [folder / "edits"], INSTRUCTION)
    assert (job.edited, faults) == (str(folder / "edits" / "0.png"), [])
    assert re.search(r"1 of 2 edits have no partner in .*sources and are left out: 1\.png", caplog.text)
    assert re.search(r"1 of 2 sources have no partner in .*edits and are left out: 2\.png", caplog.text)
    assert caplog.text.count("1 of 3 entries") == 2


def test_a_bad_line_does_not_stop_the_others(folder):
    good = {"source": "sources/0.png", "edited": "edits/0.png"}
    bad = [{"source": "../a.png"}, {"edited": ["edits/1.png", "/b.png"]}, {"instruction": " "}, {"source": "a\0"}]
    listing = folder / "list.jsonl"
    listing.write_text("\n".join(json.dumps(good | change) for change in [{}, *bad, {"edited": "edits/2.png"}]))
    jobs, faults = listed_scores(listing, INSTRUCTION)
    assert [Path(job.edited).name for job in jobs] == ["0.png", "2.png"]
    expected = (
        "line 2: '../a.png' .*--allow",
        "line 3: '/b.png' .*--allow",
        "line 4: instruction=' '",
        "line 5: .*zero",
    )
    assert len(faults) == len(expected)
    assert all(any(re.search(one, fault) for fault in faults) for one in expected)
    jobs, _ = listed_scores(listing, INSTRUCTION, allow_outside=True)
    assert [job.source for job in jobs][1] == f"{folder}/../a.png"
    assert [job.edited for job in jobs][3] == "/b.png"


def test_a_stopped_run_goes_on(scorer, folder):
    jobs, _ = plan_scores(folder / "sources", [folder / "edits"], INSTRUCTION)
    whole, stopped = folder / "whole.jsonl", folder / "stopped.jsonl"
    assert score_to_file(scorer, jobs, whole) == []
    first, second, _ = whole.read_text().splitlines(keepends=True)
    stopped.write_text(first + second[: len(second) // 2])  # cut off within a line
    score_to_file(scorer, jobs, stopped)
    assert lines(stopped)[0] == lines(whole)[0]  # was not scored again
    for a, b in zip(lines(stopped), lines(whole), strict=True):
        assert a["edited"] == b["edited"]
        np.testing.assert_allclose(a["raw"], b["raw"], atol=1e-5)
    before = stopped.read_bytes()
    score_to_file(scorer, jobs, stopped)
    assert stopped.read_bytes() == before


def test_errors_are_written_reported_and_tried_again(scorer, folder):
    jobs, _ = plan_scores(folder / "sources", [folder / "edits"], INSTRUCTION)
    good = (folder / "edits" / "1.png").read_bytes()
    (folder / "edits" / "1.png").write_bytes(b"no image")
    output = folder / "out.jsonl"
    (fault,) = score_to_file(scorer, jobs, output)
    assert "1.png" in fault
    assert ["error" in line for line in lines(output)] == [False, True, False]  # in the order of the edits
    (folder / "edits" / "1.png").write_bytes(good)
    assert score_to_file(scorer, jobs, output) == []
    assert sorted(line["edited"] for line in lines(output)) == sorted(job.edited for job in jobs)
    assert not any("error" in line for line in lines(output))


def test_an_instruction_that_is_no_text_is_an_error_of_its_edit(scorer, folder):
    jobs, _ = plan_scores(folder / "sources", [folder / "edits"], INSTRUCTION)
    jobs.insert(1, replace(jobs[0], instruction="a\ud800b"))
    (fault,) = score_to_file(scorer, jobs, folder / "out.jsonl")
    assert "Unicode" in fault
    assert ["error" in line for line in lines(folder / "out.jsonl")] == [False, True, False, False]


def test_a_line_cut_within_a_letter_is_no_obstacle(scorer, folder):
    jobs, _ = plan_scores(folder / "sources", [folder / "edits"], "mach es grün")
    output = folder / "out.jsonl"
    score_to_file(scorer, jobs, output)
    first, second, _ = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(first + b"\n" + second[: second.index("ü".encode()) + 1])
    assert score_to_file(scorer, jobs, output) == []
    assert [line["edited"] for line in lines(output)] == [job.edited for job in jobs]


def test_a_name_that_is_no_text_is_kept(scorer, folder):
    edited = folder / "edits" / os.fsdecode(b"caf\xe9.png")
    try:
        (folder / "edits" / "0.png").rename(edited)
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    job = ScoreJob(str(folder / "sources" / "0.png"), str(edited), INSTRUCTION)
    for _ in range(2):
        assert score_to_file(scorer, [job], folder / "out.jsonl") == []
        assert [line["edited"] for line in lines(folder / "out.jsonl")] == [job.edited]


def test_scores_of_two_scorers_are_not_mixed(scorer, folder):
    (jobs, _), output = plan_scores(folder / "sources", [folder / "edits"], INSTRUCTION), folder / "out.jsonl"
    score_to_file(scorer, jobs[:1], output)
    head = scorer.params["heads"]["head_0"]["dense_5"]["bias"]
    moved = {**scorer.params["heads"]["head_0"], "dense_5": {**scorer.params["heads"]["head_0"]["dense_5"]}}
    moved["dense_5"]["bias"] = head + 1e-3
    other = replace(scorer, params={**scorer.params, "heads": {**scorer.params["heads"], "head_0": moved}})
    with pytest.raises(ValueError, match=r"line 1 of .*out\.jsonl .*scorer"):
        score_to_file(other, jobs, output)
    output.write_text('{"source": "a.png"}\n')
    with pytest.raises(ValueError, match=r"line 1 of .*out\.jsonl .*instruction"):
        score_to_file(scorer, jobs, output)


def test_improvement_may_be_asked_later(scorer, folder):
    (jobs, _), output = plan_scores(folder / "sources", [folder / "edits"], INSTRUCTION), folder / "out.jsonl"
    score_to_file(scorer, jobs, output, improvement=False)
    assert [line["improvement"] for line in lines(output)] == [None] * 3
    score_to_file(scorer, jobs, output)
    assert len(lines(output)) == 3
    assert all(isinstance(line["improvement"], float) for line in lines(output))
    before = output.read_bytes()
    score_to_file(scorer, jobs, output, improvement=False)
    assert output.read_bytes() == before


def test_a_score_that_is_no_number_is_an_error(scorer, folder):
    head = scorer.params["heads"]["head_0"]
    broken = {**head, "dense_5": {**head["dense_5"], "bias": head["dense_5"]["bias"] * np.nan}}
    broken = replace(scorer, params={**scorer.params, "heads": {**scorer.params["heads"], "head_0": broken}})
    job = ScoreJob(str(folder / "sources" / "0.png"), str(folder / "edits" / "0.png"), INSTRUCTION)
    ((_, found),) = score_jobs(broken, [job])
    assert "nan" in found.reason


@pytest.mark.parametrize("ahead", [1, 2, 100])
def test_reading_ahead_changes_nothing(scorer, folder, monkeypatch, ahead):
    """However many edits wait, each gets its own score or error."""
    monkeypatch.setattr("rewardedit_jax.scoring.files.CHUNK_BATCHES", ahead)
    jobs, _ = plan_scores(folder / "sources", [folder / "edits"], INSTRUCTION)
    jobs.insert(1, ScoreJob(jobs[0].source, str(folder / "nothing.png"), INSTRUCTION))
    found = dict(score_jobs(scorer, jobs, batch_size=2))
    assert "nothing.png" in found.pop(jobs[1]).reason
    for job, score in found.items():
        alone = scorer.score(job.source, job.edited, job.instruction)
        np.testing.assert_allclose(score.raw, alone.raw, atol=1e-5)


def test_errors_are_reported_before_all_is_read(scorer, folder):
    jobs = [ScoreJob(str(folder / "sources" / "0.png"), f"none{i}.png", INSTRUCTION) for i in range(200)]
    taken = []

    def counted():
        for job in jobs:
            taken.append(job)
            yield job

    found = score_jobs(scorer, Counted(jobs, counted), batch_size=1)
    assert "none0.png" in next(found)[1].reason
    assert len(taken) < 50
    assert len(list(found)) == 199


class Counted(list):
    """A list that is iterated over as `iterate` does."""

    def __init__(self, entries, iterate):
        super().__init__(entries)
        self.iterate = iterate

    def __iter__(self):
        return self.iterate()


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["score.py", *map(str, arguments)])
    runpy.run_path(str(ROOT / "launch" / "score.py"), run_name="__main__")


def test_the_command_ranks_edits(scorer, folder, monkeypatch, capsys):
    scorer.save(folder / "model")
    edits = [folder / "edits" / f"{i}.png" for i in range(3)]
    source = ("--source", folder / "sources" / "0.png", "--edited", *edits, "--instruction", INSTRUCTION)
    command(monkeypatch, "--model", folder / "model", *source, "--json", folder / "out.json")
    found = json.loads((folder / "out.json").read_text())
    assert [entry["edited"] for entry in found] == list(map(str, edits))
    best = max(found, key=lambda entry: entry["overall"]["mean"])
    heading, _, first, *rest = capsys.readouterr().out.splitlines()
    assert heading.split()[:2] == ["edited", "following"]
    assert first.startswith(best["edited"])
    assert len(rest) == 2
    assert isinstance(best["improvement"], float)


def test_the_command_tells_an_edit_as_often_as_it_is_given(scorer, folder, monkeypatch):
    scorer.save(folder / "model")
    edits = [folder / "edits" / "0.png"] * 2
    source = ("--source", folder / "sources" / "0.png", "--edited", *edits, "--instruction", INSTRUCTION)
    command(monkeypatch, "--model", folder / "model", *source, "--no-improvement", "--json", folder / "out.json")
    first, second = json.loads((folder / "out.json").read_text())
    assert first == second
    assert first["improvement"] is None


def test_the_command_scores_what_it_can(scorer, folder, monkeypatch, capsys):
    """An edit that is not an image is reported, and is in the file; the others are scored and drawn."""
    scorer.save(folder / "model")
    edits = [folder / "edits" / f"{i}.png" for i in range(3)]
    edits[1].write_bytes(b"no image")
    source = ("--source", folder / "sources" / "0.png", "--edited", *edits, "--instruction", INSTRUCTION)
    files = ("--json", folder / "out.json", "--png", folder / "sheets" / "out.png")
    with pytest.raises(SystemExit, match=r"(?s)1 of 3 edits were not scored:.*1\.png: edited: image .* cannot be read"):
        command(monkeypatch, "--model", folder / "model", *source, *files)
    found = {entry["edited"]: entry for entry in json.loads((folder / "out.json").read_text())}
    assert ["error" in found[str(edit)] for edit in edits] == [False, True, False]
    assert len(capsys.readouterr().out.splitlines()) == 4  # heading, rule, two edits
    command(monkeypatch, "--model", folder / "model", *source, "--skip-bad", 1, "--output", folder / "out.jsonl")
    assert re.search(r"warning: 1 of 3 edits were not scored:\n.*1\.png", capsys.readouterr().err)
    assert Image.open(folder / "sheets" / "out.png").width > 3 * 192


def test_a_list_of_scores_goes_without_other_files(folder, monkeypatch, capsys):
    source = ("--source", folder / "sources" / "0.png", "--edited", folder / "edits" / "0.png")
    files = ("--output", folder / "out.jsonl", "--png", folder / "out.png")
    with pytest.raises(SystemExit):
        command(monkeypatch, "--model", folder, *source, "--instruction", INSTRUCTION, *files)
    error = capsys.readouterr().err
    assert all(name in error for name in ("--output", "--json", "--png"))


def test_shards_are_scored_and_merged(scorer, folder, monkeypatch):
    """Each with its own command; the merged file is in the order of the list, and another run has nothing to do."""
    scorer.save(folder / "model")
    source = ("--source", folder / "sources", "--edited", folder / "edits", "--instruction", INSTRUCTION)
    parts = [folder / f"part{i}.jsonl" for i in (1, 2)]
    for i, part in enumerate(parts, 1):
        command(monkeypatch, "--model", folder / "model", *source, "--shard", f"{i}/2", "--output", part)
    assert [len(lines(part)) for part in parts] == [2, 1]
    command(monkeypatch, *source, "--merge", *parts, "--output", folder / "out.jsonl")
    jobs, _ = plan_scores(folder / "sources", [folder / "edits"], INSTRUCTION)
    assert [line["edited"] for line in lines(folder / "out.jsonl")] == [job.edited for job in jobs]
    before = (folder / "out.jsonl").read_bytes()
    command(monkeypatch, "--model", folder / "model", *source, "--output", folder / "out.jsonl")
    assert (folder / "out.jsonl").read_bytes() == before
    with pytest.raises(SystemExit, match=r"1 missing: .*1\.png"):
        command(monkeypatch, *source, "--merge", parts[0], "--output", folder / "other.jsonl")


def test_merged_errors_are_reported(scorer, folder):
    (folder / "edits" / "1.png").write_bytes(b"no image")
    (jobs, _), part = plan_scores(folder / "sources", [folder / "edits"], INSTRUCTION), folder / "part.jsonl"
    failed = score_to_file(scorer, jobs, part)
    assert merge_scores(jobs, [part], folder / "out.jsonl") == failed
    assert "1.png" in failed[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model", "m", "--shard", "1/2"),
        ("--merge", "a.jsonl"),
        (),
        ("--merge", "a", "--output", "b", "--shard", "1/2"),
        ("--model", "m", "--skip-bad", "-1"),
        ("--model", "m", "--instruction", " "),
    ],
)
def test_arguments_that_do_not_fit_are_refused(folder, monkeypatch, arguments):
    source = ("--source", folder / "sources", "--edited", folder / "edits", "--instruction", INSTRUCTION)
    with pytest.raises(SystemExit) as error:
        command(monkeypatch, *source, *arguments)
    assert error.value.code == 2


def test_the_command_fails_clearly(folder, monkeypatch):
    source = ("--source", folder / "sources" / "0.png", "--edited", folder / "edits" / "0.png")
    with pytest.raises(SystemExit, match="nowhere"):
        command(monkeypatch, "--model", folder / "nowhere", *source, "--instruction", INSTRUCTION)
