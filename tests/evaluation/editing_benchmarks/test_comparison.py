"""Paired comparisons: the same items, the same questions, or a refusal that names the difference."""

import json
from copy import deepcopy

import numpy as np
import pytest
from made_benchmarks import evaluate, read, write_edits, write_real_edit
from PIL import Image

from rewardedit_jax.evaluation.editing_benchmarks.comparison import compare, tables
from rewardedit_jax.judging.questions import ask_each
from rewardedit_jax.judging.store import Store

JUDGE = {
    "judge": "openai",
    "model": "m",
    "images": "jpeg",
    "rubrics": {"following": "a"},
    "measures": ["following"],
}


def report(scores, **changed):
    """A report with an item for each score; None has failed. Yes from 4 on; two items for each photograph."""
    items = [
        {
            "key": f"{i // 2}/{i % 2}",
            "type": ("add", "remove")[i % 2],
            "sets": [],
            "group": str(i // 2),
            "instruction": f"edit {i}",
            "source_digest": str(i // 2),
            "following": {"failed": "refused", "detail": ""}
            if score is None
            else {"score": score, "yes": float(score >= 4), "derived": False},
        }
        for i, score in enumerate(scores)
    ]
    whole = {"benchmark": "real_edit", "version": 1, "judge": JUDGE, "name": "m", "items": items, "following": {}}
    return deepcopy(whole | changed)


def written(folder, *reports):
    files = [folder / f"{name}.json" for name in "ab"]
    for file, content in zip(files, reports, strict=True):
        file.write_text(json.dumps(content))
    return files


def test_differences_are_paired(tmp_path):
    """A constant difference has no uncertainty, however much the scores scatter."""
    rng = np.random.default_rng(0)
    scores = rng.uniform(1, 4, 40).tolist()
    found = compare(*written(tmp_path, report([score + 0.5 for score in scores]), report(scores)))
    score = found["following"]["score"]
    assert (score["items"], found["compared"]) == (40, 40)
    assert score["difference"] == pytest.approx(0.5)
    assert score["interval"] == pytest.approx((0.5, 0.5))
    assert found["types"]["add"]["following"]["score"]["items"] == 20
    same = compare(*written(tmp_path, report(scores), report(scores)))
    assert same["following"]["accuracy"]["interval"] == (0, 0)


def test_failures_are_no_yes_and_have_no_score(tmp_path):
    found = compare(*written(tmp_path, report([5, 5, None, 1]), report([3, None, 2, 1])))["following"]
    assert found["accuracy"] == {
        "items": 4, "first": 0.5, "second": 0, "difference": 0.5, "interval": found["accuracy"]["interval"]
    }  # fmt: skip
    assert (found["score"]["items"], found["score"]["first"], found["score"]["second"]) == (2, 3, 2)
    nothing = compare(*written(tmp_path, report([5, None]), report([None, 3])))["following"]["score"]
    assert nothing == {"items": 0, "first": None, "second": None, "difference": None, "interval": None}


def test_other_items_are_left_out_and_named(tmp_path):
    files = written(tmp_path, report([1, 2, 3, 4]), report([1, 2, 3, 4, 5, 5]))
    found = compare(*files)
    assert (found["compared"], found["only_first"], found["only_second"]) == (4, [], ["2/0", "2/1"])
    (table,) = tables(found)
    assert any("2 items of the second are not in the other: 2/0, 2/1" in note for note in table.notes)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"benchmark": "gedit_bench"}, "benchmark: 'real_edit' and 'gedit_bench'"),
        ({"version": 2}, "version: 1 and 2"),
        ({"judge": {**JUDGE, "rubrics": {"following": "b"}}}, "judge.rubrics: .*'a'.*'b'"),
        ({"judge": {**JUDGE, "model": "n"}}, "judge.model: 'm' and 'n'"),
        ({"judge": {**JUDGE, "images": "png"}}, "judge.images"),
    ],
)
def test_other_questions_are_refused(tmp_path, changed, named):
    with pytest.raises(ValueError, match=rf"(?s)not answer the same questions.*{named}"):
        compare(*written(tmp_path, report([1, 2]), report([1, 2], **changed)))


def test_another_version_of_the_benchmark_is_refused(tmp_path):
    other = report([1, 2])
    other["items"][1]["instruction"] = "edit 99"
    with pytest.raises(ValueError, match=r"two versions.*\n.*0/1: instruction 'edit 1' and 'edit 99'"):
        compare(*written(tmp_path, report([1, 2]), other))
    other = report([1, 2])
    other["items"][0]["source_digest"] = None  # the photograph is missing there
    assert compare(*written(tmp_path, report([1, 2]), other))["compared"] == 2
    apart = report([1])
    apart["items"][0]["key"] = "x"
    with pytest.raises(ValueError, match="no item in common"):
        compare(*written(tmp_path, report([1]), apart))


def test_metrics_are_compared_where_both_have_them(tmp_path):
    reports = [report([1, 2, 3, 4]) for _ in "ab"]
    for sign, content in zip((1, -1), reports, strict=True):
        for i, item in enumerate(content["items"]):
            item["metrics"] = (
                {"l1": 0.5 + 0.1 * sign} | ({"clip_i": 0.9} if sign == 1 else {}) | ({"l2": i} if i else {})
            )
    del reports[1]["items"][3]["metrics"]
    found = compare(*written(tmp_path, *reports))
    assert found["metrics"]["l1"]["difference"] == pytest.approx(0.2)
    assert found["metrics"]["l1"]["items"] == 3
    assert found["metrics"]["l2"]["items"] == 2
    assert "clip_i" not in found["metrics"]
    assert tables(found)[-1].rows[0][:2] == ("l1", "3")


def test_the_command_prints_and_writes(tmp_path, capsys):
    files = written(tmp_path, report([5, 4, 3, 4]), report([1, 2, 3, 4]))
    evaluate("compare_edits", *files, "--json", tmp_path / "c.json")
    printed = capsys.readouterr().out
    assert "following, % yes" in printed
    assert "+50.0" in printed
    assert "+1.50" in printed
    assert read(tmp_path / "c.json")["following"]["accuracy"]["difference"] == 0.5
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ValueError, match=r"x\.json is no report"):
        evaluate("compare_edits", tmp_path / "x.json", files[0])


def test_contact_sheets_show_both_systems(tmp_path):
    """Of what one system made and what it failed, on the items that both have."""
    data, store = write_real_edit(tmp_path / "data", 2, 2), tmp_path / "s.sqlite"
    for name in "ab":
        write_edits(tmp_path / name, 2, 2)
    (tmp_path / "a" / "0.png" / "1.png").unlink()
    with Store(store, create=True) as opened:
        opened.add_questions(ask_each("openai", "m", {"following": "x"}))
    for name in "ab":
        report = ("--edits", tmp_path / name, "--json", tmp_path / f"{name}.json")
        drawn = ("--name", f"system {name}", "--page", tmp_path / "x.html", "--sheet", tmp_path / f"{name}_sheet.png")
        evaluate("real_edit", "--data", data, *report, "--judge", "replay", "--store", store, *drawn)
        assert Image.open(tmp_path / f"{name}_sheet.png").width > 300
    drawn = ("--page", tmp_path / "both.html", "--sheet", tmp_path / "both.png")
    evaluate("compare_edits", tmp_path / "a.json", tmp_path / "b.json", *drawn)
    page = (tmp_path / "both.html").read_text()
    assert "following: no edit" in page
    assert "edit 3" in page
    assert "system a" in page
    assert "system b" in page
    assert Image.open(tmp_path / "both.png").width > Image.open(tmp_path / "a_sheet.png").width
