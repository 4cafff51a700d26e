"""Real-Edit from a folder and an editor to a report: every answer and every failure is accounted for."""

import json
import re
import shutil

import numpy as np
import pytest
from loopback_endpoint import endpoint, verdict
from made_benchmarks import evaluate, picture, read, write_edits, write_real_edit
from made_sets import command, real_edit
from PIL import Image

from rewardedit_jax.data.open_edits import open_edits
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.editing.editor import Editor
from rewardedit_jax.evaluation.editing_benchmarks.real_edit import QUESTIONS, REAL_EDIT
from rewardedit_jax.judging.images import ImageSettings
from rewardedit_jax.judging.labelling import ask
from rewardedit_jax.judging.plan import Plan
from rewardedit_jax.judging.questions import ask_each
from rewardedit_jax.judging.rubrics import read_rubrics
from rewardedit_jax.judging.store import Answer, Store
from rewardedit_jax.reward import PERSPECTIVES

FAST = ("--steps", 1, "--resolution", 16)
NUMBERS = ("accuracy", "score", "failed", "total")


def judge(server, folder):
    return ("--judge", "openai", "--judge-model", "m", "--base-url", server.url, "--store", folder / "s.sqlite")


def replay(folder):
    return ("--judge", "replay", "--store", folder / "s.sqlite")


def test_every_shipped_rubric_asks_for_its_form():
    for rubric in read_rubrics(REAL_EDIT.rubrics, QUESTIONS).values():
        asked = rubric.about("make {it} snow")
        example = json.loads(re.findall(r"\{\"[^{}]*\}", asked)[-1])
        assert list(example) == [*rubric.form.keys]
        assert all(f"\n{score}: " in asked for score in range(6))
        assert ("make {it} snow" in asked) == rubric.needs_instruction


@pytest.mark.usefixtures("_editor")
def test_a_run_and_its_replay(tmp_path, capsys):
    """The replay makes nothing new, asks nothing and writes the same report."""
    data, out = write_real_edit(tmp_path / "data"), tmp_path / "out.json"
    arguments = ("real_edit", "--data", data, "--model", "m", *FAST, "--json", out)
    with endpoint(tmp_path / "server") as server:
        evaluate(*arguments, *judge(server, tmp_path))
        assert len(server.requests()) == 14 * 3
    written = out.read_bytes()
    used, table = capsys.readouterr().out.split("\n", 1)
    assert re.match(r"42 answers in .*s\.sqlite: 42,000 prompt tokens", used)
    edits = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "edits").glob("*/*.png")}
    assert len(edits) == 14
    evaluate(*arguments, *replay(tmp_path))
    assert out.read_bytes() == written
    assert capsys.readouterr().out == table
    assert {file: file.stat().st_mtime_ns for file in edits} == edits

    report = read(out)
    for measure in PERSPECTIVES:
        scores = [json.loads(verdict(f"{number} {measure}"))["score"] for number in range(14)]
        found = report[measure]
        assert found["score"] == pytest.approx(sum(scores) / 14)
        # The endpoint answers with score and feedback: the yes or no follows from the score.
        assert found["accuracy"] == pytest.approx(sum(score >= 4 for score in scores) / 14)
        assert (found["failed"], found["total"], found["answered"], found["derived"]) == (0, 14, 14, 14)
        low, high = found["score_interval"]
        assert low <= found["score"] <= high
        for number, name in enumerate(("local", "remove", "add", "texture", "background", "global", "style")):
            some = report["types"][name][measure]
            assert some["total"] == 2
            assert some["score"] == pytest.approx((scores[number] + scores[number + 7]) / 2)
            assert {*NUMBERS} <= {*some}
    assert report["settings"]["steps"] == 1
    assert report["judge"]["rubrics"]["quality"] == read_rubrics(REAL_EDIT.rubrics, QUESTIONS)["quality"].digest
    assert [item["key"] for item in report["items"][:2]] == ["0.png/1", "0.png/2"]
    assert (tmp_path / report["items"][0]["edited"]).is_file()
    assert (tmp_path / report["items"][0]["source"]).is_file()


@pytest.mark.usefixtures("_editor")
def test_the_edits_do_not_depend_on_where_they_are_made(tmp_path):
    """Answers are stored under the bytes of an edit, so that a replay finds them with another output folder."""
    data = write_real_edit(tmp_path / "data", 1, 2)
    Store(tmp_path / "s.sqlite", create=True).close()
    found = []
    with Store(tmp_path / "s.sqlite", create=True) as store:
        store.add_questions(ask_each("openai", "m", dict.fromkeys(PERSPECTIVES, "x")))
    for name in ("a", "b"):
        folder = tmp_path / name / "deeper"
        evaluate("real_edit", "--data", data, "--model", "m", *FAST, "--output", folder, *replay(tmp_path))
        found.append({file.name: file.read_bytes() for file in folder.rglob("edits/*/*.png")})
    assert len(found[0]) == 2
    assert found[0] == found[1]


@pytest.mark.usefixtures("_editor")
def test_labels_of_the_same_edits_are_answers(tmp_path):
    """launch/label.py on the list of the edits, with its own rubrics: the yes or no follows from the scores."""
    data, folder = write_real_edit(tmp_path / "data", 1), tmp_path / "edits"
    digests = {name: rubric.digest for name, rubric in read_rubrics().items()}
    questions = ask_each("openai", "m", digests, ImageSettings().name)
    with Store(tmp_path / "s.sqlite", create=True) as store:
        store.add_questions(questions)
    arguments = ("real_edit", "--data", data, "--model", "m", *FAST, "--output", folder, "--json", tmp_path / "o.json")
    evaluate(*arguments, *replay(tmp_path))
    assert read(tmp_path / "o.json")["following"]["reasons"] == {"not asked": 7}

    class Labeller:
        def questions(self, repeat=1, swap=False):
            return questions

        def answer(self, requests, keep):
            for request in requests:
                score = 4 if request.question.perspective == "following" else 3.5
                keep(request, Answer(json.dumps({"score": score, "feedback": "x"}), "stop"))

    plan = Plan.make(open_edits(folder / "edits.jsonl"), questions)
    with Store(tmp_path / "s.sqlite", create=True) as store:
        ask(plan, Labeller(), store)
    evaluate(*arguments, *replay(tmp_path))
    report = read(tmp_path / "o.json")
    assert [report[measure]["accuracy"] for measure in PERSPECTIVES] == [1, 0, 0]
    assert [report[measure]["derived"] for measure in PERSPECTIVES] == [7, 7, 7]
    assert [report[measure]["score"] for measure in PERSPECTIVES] == [4, 3.5, 3.5]
    evaluate(*arguments, *replay(tmp_path), "--rubrics", "rewardedit_jax/judging/rubrics")
    assert read(tmp_path / "o.json") == report


PERMANENT = {
    "429": "rate limited", "500": "server error", "close": "no connection", "not json": "bad response",
    "400": "rejected", "cut": "truncated", "keys": "wrong keys", "seven": "out of range", "empty": "empty",
    "refusal": "refused", "field": "refused", "filter": "refused",
}  # fmt: skip


def test_whatever_the_judge_does_all_answers_are_accounted_for(tmp_path):
    data, edits = write_real_edit(tmp_path / "data", 2), write_edits(tmp_path / "edits", 2)
    behaviour = {f"{i} {PERSPECTIVES[i % 3]}": [word] for i, word in enumerate(PERMANENT)}
    with endpoint(tmp_path / "server", behaviour) as server:
        arguments = ("real_edit", "--data", data, "--edits", edits, "--json", tmp_path / "o.json", "--retries", 1)
        evaluate(*arguments, *judge(server, tmp_path))
    report = read(tmp_path / "o.json")
    reasons = {}
    for n, measure in enumerate(PERSPECTIVES):
        found = report[measure]
        wrong = sum(i % 3 == n for i in range(len(PERMANENT)))
        assert (found["failed"], found["answered"], found["total"]) == (wrong, 14 - wrong, 14)
        assert sum(found["reasons"].values()) == wrong
        answered = [item[measure] for item in report["items"] if "failed" not in item[measure]]
        assert found["accuracy"] == pytest.approx(sum(item["yes"] for item in answered) / 14)
        assert found["accuracy_answered"] == pytest.approx(sum(item["yes"] for item in answered) / len(answered))
        assert found["score"] == pytest.approx(sum(item["score"] for item in answered) / len(answered))
        reasons |= found["reasons"]
    assert {*reasons} == {*PERMANENT.values()}


@pytest.mark.usefixtures("_editor")
def test_a_judge_that_answers_nothing(tmp_path):
    data = write_real_edit(tmp_path / "data", 1, 2)
    with Store(tmp_path / "s.sqlite", create=True) as store:
        store.add_questions(ask_each("openai", "m", {"following": "x"}))
    evaluate("real_edit", "--data", data, "--model", "m", *FAST, "--json", tmp_path / "o.json", *replay(tmp_path))
    report = read(tmp_path / "o.json")
    for measure in PERSPECTIVES:
        assert report[measure]["reasons"] == {"not asked": 2}
        assert report[measure]["accuracy"] == 0
        assert report[measure]["score"] is report[measure]["score_interval"] is None


@pytest.mark.usefixtures("_editor")
def test_missing_and_damaged_photographs_count(tmp_path, capsys):
    data = write_real_edit(tmp_path / "data", 3, 2)
    (data / "Real-Edit" / "0.png").unlink()
    (data / "Real-Edit" / "1.png").write_bytes(b"torn")
    with endpoint(tmp_path / "server") as server:
        arguments = ("real_edit", "--data", data, "--model", "m", *FAST, "--json", tmp_path / "o.json")
        evaluate(*arguments, *judge(server, tmp_path))
    report = read(tmp_path / "o.json")
    assert report["quality"]["reasons"] == {"missing image": 4}
    assert (report["quality"]["total"], report["types"]["local"]["quality"]["failed"]) == (6, 2)
    assert report["items"][0]["quality"]["failed"] == "missing image"
    assert "0.png" in report["items"][0]["quality"]["detail"]
    assert "12 of 18 items have failed" in capsys.readouterr().err


def test_edits_that_fail_count(tmp_path, small_editor, monkeypatch):
    """An editor that gives NaN for some edits: the others are judged."""
    monkeypatch.setattr(Editor, "load", lambda *_, **__: small_editor)
    edit = Editor._check_finite

    def fails_for_some(self, images):
        edit(self, [images[0], *(np.full_like(image, np.nan) for image in images[1:])])

    monkeypatch.setattr(Editor, "_check_finite", fails_for_some)
    data = write_real_edit(tmp_path / "data", 1, 3)
    with endpoint(tmp_path / "server") as server:
        arguments = ("real_edit", "--data", data, "--model", "m", *FAST, "--json", tmp_path / "o.json")
        evaluate(*arguments, *judge(server, tmp_path))
    report = read(tmp_path / "o.json")
    assert report["following"]["reasons"] == {"not edited": 2}
    assert report["following"]["answered"] == 1
    assert "NaN" in report["items"][1]["following"]["detail"]


@pytest.mark.usefixtures("_editor")
def test_a_folder_takes_edits_of_one_model_and_settings(tmp_path):
    data = write_real_edit(tmp_path / "data", 1, 1)
    with Store(tmp_path / "s.sqlite", create=True) as store:
        store.add_questions(ask_each("openai", "m", {"following": "x"}))
    common = ("real_edit", "--data", data, *FAST, "--output", tmp_path / "edits", *replay(tmp_path))
    evaluate(*common, "--model", "m")
    evaluate(*common, "--model", "another name of it")
    for more in (("--steps", 2), ("--seed", 1), ("--reward", 1, 2, 3), ("--text-guidance", 3)):
        name = more[0].removeprefix("--").replace("-", "_")
        with pytest.raises(ValueError, match=rf"edits that were made otherwise.*\n  {name}: .* there, .* asked for$"):
            evaluate(*common, "--model", "m", *more)
    picture(99).save(data / "Real-Edit" / "0.png")
    with pytest.raises(ValueError, match=r"(?s)other source images.*0\.png/1\.png: made of sources/"):
        evaluate(*common, "--model", "m")
    other = write_real_edit(tmp_path / "other", 1, 2)
    with pytest.raises(ValueError, match="requests"):
        evaluate("real_edit", "--data", other, *common[3:], "--model", "m")


@pytest.mark.usefixtures("_editor")
def test_machines_share_a_benchmark(tmp_path):
    data = write_real_edit(tmp_path / "data", 3, 2)
    with endpoint(tmp_path / "server") as server:
        common = ("real_edit", "--data", data, "--model", "m", *FAST)
        evaluate(*common, "--json", tmp_path / "whole.json", *judge(server, tmp_path))
        for part in ("1/2", "2/2"):
            asked = judge(server, tmp_path / part[0])
            evaluate(*common, "--output", tmp_path / "shared", "--shard", part, *asked)
        assert len(server.requests()) == 2 * 18
    with Store(tmp_path / "merged", create=True) as store:
        for part in ("1", "2"):
            store.merge(tmp_path / part / "s.sqlite")
    with_store = ("--judge", "replay", "--store", tmp_path / "merged")
    evaluate(*common, "--json", tmp_path / "parts.json", "--output", tmp_path / "shared", *with_store)
    whole, parts = read(tmp_path / "whole.json"), read(tmp_path / "parts.json")
    assert {name: whole[name] for name in (*PERSPECTIVES, "types")} == {n: parts[n] for n in (*PERSPECTIVES, "types")}
    with pytest.raises(ValueError, match="--shard"):
        evaluate(*common, "--json", tmp_path / "x.json", "--shard", "1/2", *with_store)
    with pytest.raises(ValueError, match="--output"):
        evaluate(*common, *with_store)


def test_edits_of_another_program(tmp_path, capsys):
    """Grey, odd-sized, missing and damaged ones: judged as they are or counted, and named."""
    data, edits = write_real_edit(tmp_path / "data", 1), write_edits(tmp_path / "edits", 1)
    folder = edits / "0.png"
    picture(1).convert("L").save(folder / "1.png")
    Image.new("RGB", (33, 17), "red").save(folder / "2.png")
    picture(5, 24, 24).save(folder / "3.webp")
    (folder / "3.png").unlink()
    (folder / "4.png").unlink()
    (folder / "5.png").write_bytes(b"torn")
    with endpoint(tmp_path / "server") as server:
        arguments = ("real_edit", "--data", data, "--edits", edits, "--json", tmp_path / "o.json")
        evaluate(*arguments, *judge(server, tmp_path))
    report = read(tmp_path / "o.json")
    assert report["following"]["reasons"] == {"no edit": 1, "unreadable edit": 1}
    assert report["following"]["total"] == 7
    outputs = {"grey": ["0.png/1"], "other_size": ["0.png/2", "0.png/3"], "other_shape": ["0.png/2"]}
    assert report["outputs"] == outputs
    noted = capsys.readouterr().err
    assert "1 edit, grey: 0.png/1" in noted
    assert report["model"] is None


@pytest.mark.usefixtures("_editor")
def test_a_prepared_data_set_counts_what_it_left_out(tmp_path):
    real_edit(tmp_path / "data")
    command("real_edit", "--source", tmp_path / "data", "--out", tmp_path / "prepared")
    with endpoint(tmp_path / "server") as server:
        common = ("real_edit", "--model", "m", *FAST)
        for name in ("data", "prepared"):
            # Its instructions have no number, which the endpoint needs to know an item.
            folder = tmp_path / name
            arguments = (*common, "--data", folder, "--json", tmp_path / f"{name}.json")
            (tmp_path / "s.sqlite").exists() or store_of(tmp_path)
            evaluate(*arguments, *replay(tmp_path))
    published, prepared = (read(tmp_path / f"{name}.json") for name in ("data", "prepared"))
    for report in (published, prepared):
        assert report["following"]["reasons"] == {"not asked": 2, "missing image": 1}
    assert prepared["types"]["left out"]["following"]["total"] == 1
    assert [item["group"] for item in prepared["items"][:2]] == [item["group"] for item in published["items"][:2]]
    del server


def store_of(folder):
    with Store(folder / "s.sqlite", create=True) as store:
        store.add_questions(ask_each("openai", "m", {"following": "x"}))


def test_what_is_not_the_benchmark_is_refused(tmp_path):
    store_of(tmp_path)
    edits = ("--edits", tmp_path, "--output", tmp_path / "o", *replay(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"real_edit_instruct\.json"):
        evaluate("real_edit", "--data", tmp_path / "nowhere", *edits)
    data = write_real_edit(tmp_path / "data", 1)
    lines = json.loads((data / "real_edit_instruct.json").read_text())
    (data / "real_edit_instruct.json").write_text(json.dumps({**lines, "9.png": ["8. Other: edit 3"]}))
    with pytest.raises(BadRecords, match=r"1 bad entries.*9\.png/1"):
        evaluate("real_edit", "--data", data, *edits)
    shutil.rmtree(data)
    with pytest.raises(ValueError, match="no store"):
        evaluate("real_edit", "--data", write_real_edit(data, 1), *edits[:4], "--judge", "replay", "--store", "none")
    with pytest.raises(ValueError, match="--store"):
        evaluate("real_edit", "--data", data, *edits[:4], "--judge", "replay")
    with pytest.raises(ValueError, match="--judge none"):
        evaluate("real_edit", "--data", data, *edits[:4], "--judge", "none", "--json", "x")
    with pytest.raises(ValueError, match="--model"):
        evaluate("real_edit", "--data", data, *edits[:4], "--judge", "openai", "--store", tmp_path / "s.sqlite")
