"""I2EBench: every stored verdict is counted once, items are told apart by their images, and faulty files are named."""

import json
import runpy
import sys

import numpy as np
import pytest
from paths import ROOT

from rewardedit_jax.evaluation import report as reports
from rewardedit_jax.evaluation.editing_benchmarks import i2ebench
from rewardedit_jax.evaluation.editing_benchmarks.i2ebench import ALL, evaluate_verdicts, read_verdict, read_verdicts

COUNTS = ("yes", "no", "unreadable", "missing", "answered_items", "items_of_task")


@pytest.fixture
def no_bootstrap(monkeypatch):
    for module in (i2ebench, reports):
        monkeypatch.setattr(module, "bootstrap_interval", lambda *_: (0.0, 1.0))


def test_public_verdicts_are_counted_as_in_their_reference(shared_data, no_bootstrap):
    """The accuracy of the published script comes from its own rule, and equals that of the reference."""
    data = shared_data / "i2ebench"
    reference = json.loads((data / "reference.json").read_text("utf-8"))
    parts = evaluate_verdicts(read_verdicts(data)).to_json()["parts"]
    assert parts.keys() - {ALL} == reference.keys()
    for task, editors in reference.items():
        assert parts[task].keys() == editors.keys()
        for editor, expected in editors.items():
            found = parts[task][editor]
            assert {name: found[name] for name in COUNTS} == {name: expected.get(name, 0) for name in COUNTS}
            for name in ("accuracy_over_answered", "accuracy_fixed_denominator"):
                assert round(found[name], 4) == expected[name]
            assert round(found["accuracy_published"], 4) == expected["accuracy_over_answered"]
    for editor, found in parts[ALL].items():
        assert found["yes"] == sum(reference[task][editor]["yes"] for task in reference)


def record(image, verdict, **changed):
    asked = {"prompt": "make it red", "question": "Is it red?", "gt": "Yes"}
    return {"image": image, **asked, "final_judgement": verdict, **changed}


def write(folder, editor, records, task="Counting"):
    (folder / task).mkdir(parents=True, exist_ok=True)
    # The numbers are places in the file, as in the public files.
    content = {str(i): record for i, record in enumerate(records, 1)}
    (folder / task / f"{editor}.json").write_text(json.dumps(content))


@pytest.fixture
def answers(tmp_path):
    """Two editors and four items: `b` lacks the first item, so that its numbers mean other items than those of `a`."""
    write(tmp_path, "a", [record(f"{i}.jpg", verdict) for i, verdict in enumerate(("Yes", "Yes.", "no", "Sorry"))])
    write(tmp_path, "b", [record(f"{i}.jpg", verdict) for i, verdict in enumerate((" NO", "yes", "Yes"), 1)])
    return tmp_path


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Yes", "yes"), ("Yes.", "yes"), ("yes", "yes"), ("**YES**\n", "yes"), ("'yes'", "yes"),
        ("No", "no"), ("No.", "no"), ("no", "no"), (" NO! ", "no"), ("_no_", "no"),
        ("", "unreadable"), ("Sorry, I can't help.", "unreadable"), ("Yes/No", "unreadable"), ("eyes", "unreadable"),
        ("No, it is red, as asked.", "unreadable"), ("Yesno", "unreadable"), ("oui", "unreadable"), (None, "missing"),
    ],
)  # fmt: skip
def test_spellings(text, verdict):
    assert read_verdict(text) == verdict


def test_items_are_told_apart_by_their_image(answers):
    (task,) = read_verdicts(answers)
    assert task.images == ("0.jpg", "1.jpg", "2.jpg", "3.jpg")
    assert task.verdicts("a") == ["yes", "yes", "no", "unreadable"]
    assert task.verdicts("b") == ["missing", "no", "yes", "yes"]


def test_denominators_and_differences(answers):
    report = evaluate_verdicts(read_verdicts(answers))
    measured = report.to_json()
    a, b = (measured["parts"]["Counting"][editor] for editor in "ab")
    assert (a["accuracy_fixed_denominator"], a["accuracy_over_answered"]) == (2 / 4, 2 / 4)
    assert (b["accuracy_fixed_denominator"], b["accuracy_over_answered"]) == (2 / 4, 2 / 3)
    low, high = b["interval_fixed_denominator"]
    assert 0 <= low < 2 / 4 < high <= 1
    # Both have a readable verdict on 1.jpg and 2.jpg, where each is right once.
    difference = next(d for d in measured["differences"] if d["part"] == "Counting")
    assert (difference["items"], difference["difference"]) == (2, 0)
    assert (measured["unreadable"]["first"], measured["missing"]["first"]) == (
        ["Counting/a 3.jpg"],
        ["Counting/b 0.jpg"],
    )
    assert all(name in report.to_text() for name in ("Counting/a 3.jpg", "Counting/b 0.jpg", "a − b"))


def test_a_difference_of_the_same_items_is_certain_where_that_of_others_is_not(tmp_path):
    """`a` is right wherever `b` is, and on one item in ten more."""
    b = np.arange(100) % 2 == 0
    a = b | (np.arange(100) % 10 == 1)
    for editor, right in (("a", a), ("b", b)):
        write(tmp_path, editor, [record(f"{i:03}.jpg", "Yes" if yes else "No") for i, yes in enumerate(right)])
    measured = evaluate_verdicts(read_verdicts(tmp_path)).to_json()
    difference, parts = measured["differences"][0], measured["parts"][ALL]
    assert difference["difference"] == pytest.approx(0.1)
    assert difference["interval"][0] > 0
    assert parts["a"]["interval_fixed_denominator"][0] < parts["b"]["interval_fixed_denominator"][1]


def test_the_published_script_takes_every_text_with_yes_for_a_yes(answers):
    write(answers, "c", [record(f"{i}.jpg", "I do not see any eyes.") for i in range(4)])
    found = evaluate_verdicts(read_verdicts(answers)).to_json()["parts"]["Counting"]["c"]
    assert (found["accuracy_published"], found["accuracy_fixed_denominator"], found["unreadable"]) == (1, 0, 4)


def test_an_editor_without_a_file_has_no_verdict(answers):
    write(answers, "a", [record("9.jpg", "Yes")], task="Replacement")
    report = evaluate_verdicts(read_verdicts(answers))
    found = report.to_json()["parts"]
    assert (found["Replacement"]["b"]["missing"], found["Replacement"]["b"]["accuracy_over_answered"]) == (1, None)
    assert found[ALL]["b"]["items_of_task"] == 5
    assert "undefined" in report.to_text()


def test_a_file_before_its_second_stage_has_unreadable_verdicts(answers):
    first = {name: value for name, value in record("0.jpg", "").items() if name != "final_judgement"}
    write(answers, "c", [first, record("1.jpg", None)])
    assert read_verdicts(answers)[0].verdicts("c") == ["unreadable", "unreadable", "missing", "missing"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record("0.jpg", "Yes"), record("0.jpg", "No")], r"Counting/c\.json: 1 images .* once.*0\.jpg"),
        ([record("0.jpg", "Yes", question="Is it blue?")], r"Counting/\w\.json: 1 items differ .*0\.jpg"),
        ([record("0.jpg", 1)], r"c\.json: 1 of 1 records(?s:.*)1: final_judgement=1"),
        ([record("0.jpg", "Yes"), {"evaluation": {"SSIM": 0.5}}], r"c\.json: 1 of 2 records(?s:.*)2: .*image"),
    ],
)
def test_faulty_files_are_named(answers, records, message):
    write(answers, "c", records)
    with pytest.raises(ValueError, match=message):
        read_verdicts(answers)


def test_folders_without_verdicts(answers, tmp_path):
    write(answers, "a", [{"evaluation": {"SSIM": 0.5}}], task="Deblurring")
    assert [task.task for task in read_verdicts(answers)] == ["Counting"]
    with pytest.raises(FileNotFoundError, match=r"none has no verdicts: .*Counting"):
        read_verdicts(tmp_path / "none")


def test_the_command(answers, tmp_path, monkeypatch, capsys):
    files = {"--json": tmp_path / "out.json", "--png": tmp_path / "out.png"}
    arguments = ["i2ebench", "--answers", answers, *(part for item in files.items() for part in item)]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
    runpy.run_path(str(ROOT / "launch" / "evaluate.py"), run_name="__main__")
    assert "Counting, b" in capsys.readouterr().out
    assert json.loads(files["--json"].read_text())["parts"]["Counting"]["b"]["missing"] == 1
    assert files["--png"].stat().st_size > 0
