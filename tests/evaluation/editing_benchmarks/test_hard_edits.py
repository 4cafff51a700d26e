"""Training edits with low scores: which they are, and their own images beside those of an editor."""

import json

import numpy as np
import pytest
from loopback_endpoint import endpoint
from made_benchmarks import evaluate, picture, read, read_lines, write_magicbrush, write_real_edit
from made_sets import command

from rewardedit_jax.data.open_edits import open_edits
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.evaluation.editing_benchmarks.hard_edits import open_hard_edits
from rewardedit_jax.judging.store import Store

FAST = ("--model", "m", "--steps", 1, "--resolution", 16)
SCORES = [[5, 5, 5], [1, 5, 2], [4, 2, 4], [3, 3, 3], [0, 0, 0]]


@pytest.fixture
def data(tmp_path):
    """A list of five edits of two photographs, and the labels of all but the last."""
    lines = []
    for number in range(len(SCORES)):
        picture(number % 2).save(tmp_path / f"source{number}.png")
        picture(100 + number).save(tmp_path / f"edited{number}.png")
        lines.append({"input": f"source{number}.png", "output": f"edited{number}.png", "instruction": f"edit {number}"})
    (tmp_path / "list.json").write_text(json.dumps(lines))
    return tmp_path / "list.json"


@pytest.fixture
def labels(data):
    keys = [item.key for item in _all(data)]
    file = data.parent / "labels.jsonl"
    rows = [
        {"key": key, "scores": scores, "feedback": ["a", "b", "c"]}
        for key, scores in list(zip(keys, SCORES, strict=True))[:-1]
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _all(data):
    edits = open_edits(data)
    return [edits.encoded(i) for i in range(len(edits))]


def test_edits_with_a_low_score_are_taken_in_their_order(data, labels):
    requests = open_hard_edits(data, str(labels))
    assert [item.label.instruction for item in requests.items] == ["edit 1", "edit 2"]
    assert [item.label.edit_type for item in requests.items] == ["following, quality", "preserving"]
    assert [requests.target(item).source for item in requests.items] == [
        (data.parent / f"edited{number}.png").read_bytes() for number in (1, 2)
    ]
    assert len(open_hard_edits(data, str(labels), count=1).items) == 1
    with pytest.raises(BadRecords, match="no edit with a score of at most 2"):
        open_hard_edits(data)


@pytest.mark.usefixtures("_editor")
def test_original_edits_are_judged_beside_those_of_the_editor(tmp_path, data, labels):
    """The judge sees the training edits themselves, and answers about both are in one store."""
    with endpoint(tmp_path / "server") as server:
        judge = ("--judge", "openai", "--judge-model", "m", "--base-url", server.url, "--store", tmp_path / "s.sqlite")
        common = ("hard_edits", "--data", data, "--labels", labels, *judge)
        evaluate(*common, "--targets", "--json", tmp_path / "original.json")
        evaluate(*common, *FAST, "--json", tmp_path / "ours.json")
        assert len(server.requests()) == 2 * 2 * 3
    original, ours = read(tmp_path / "original.json"), read(tmp_path / "ours.json")
    for report in (original, ours):
        assert (report["following"]["total"], report["following"]["failed"]) == (2, 0)
    assert original["name"] == "the benchmark's targets"
    shown = [tmp_path / item["edited"] for item in original["items"]]
    assert [file.read_bytes() for file in shown] == [
        (data.parent / f"edited{number}.png").read_bytes() for number in (1, 2)
    ]
    evaluate_words = (
        "compare_edits",
        tmp_path / "ours.json",
        tmp_path / "original.json",
        "--json",
        tmp_path / "d.json",
    )
    evaluate(*evaluate_words)
    assert read(tmp_path / "d.json")["compared"] == 2


def test_a_prepared_data_set_serves_too(tmp_path, data, labels):
    command("triplets", "--source", data, "--out", tmp_path / "prepared")
    requests = open_hard_edits(tmp_path / "prepared", str(labels))
    assert [requests.read(item).instruction for item in requests.items] == ["edit 1", "edit 2"]


@pytest.mark.usefixtures("_editor")
def test_metrics_without_a_judge(tmp_path, capsys):
    """MagicBrush's published figures compare with targets, and need nobody's answers."""
    data = write_magicbrush(tmp_path / "data", {"139": 2, "30": 1})
    evaluate("magicbrush", "--data", data, *FAST, "--judge", "none", "--json", tmp_path / "a.json")
    report = read(tmp_path / "a.json")
    assert report["judge"]["measures"] == []
    assert report["metrics"]["metrics"]["l1"]["items"] == 3
    assert "following" not in report
    evaluate("magicbrush", "--data", data, "--targets", "--judge", "none", "--json", tmp_path / "b.json")
    assert read(tmp_path / "b.json")["metrics"]["metrics"]["l1"]["value"] == 0
    pairs = read_lines(tmp_path / "b" / "pairs.jsonl")
    assert all(pair["edited"] == pair["target"] for pair in pairs)
    evaluate("compare_edits", tmp_path / "a.json", tmp_path / "b.json", "--json", tmp_path / "d.json",
             "--page", tmp_path / "d.html")  # fmt: skip
    found = read(tmp_path / "d.json")["metrics"]["l1"]
    assert found["difference"] == pytest.approx(np.mean([item["metrics"]["l1"] for item in report["items"]]))
    assert (tmp_path / "d.html").stat().st_size > 1000
    assert "l1" in capsys.readouterr().out


def test_a_benchmark_without_targets_says_so(tmp_path):
    Store(tmp_path / "s.sqlite", create=True)
    with pytest.raises(ValueError, match="real_edit has no target images"):
        evaluate("real_edit", "--data", write_real_edit(tmp_path / "data"), "--targets", "--judge", "none",
                 "--output", tmp_path / "o")  # fmt: skip
