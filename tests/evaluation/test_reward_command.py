"""launch/evaluate.py on stored answers, as a user calls it."""

import json
import runpy
import sys
from pathlib import Path

import pytest

EVALUATE = str(Path(__file__).parents[2] / "launch" / "evaluate.py")


@pytest.fixture
def evaluate(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
        runpy.run_path(EVALUATE, run_name="__main__")

    return run


@pytest.mark.parametrize(("judge", "accuracy"), [("gpt4o", 53.54), ("random", 25.90)])
def test_genai_bench(evaluate, shared, tmp_path, capsys, judge, accuracy):
    files = {"--json": tmp_path / "out.json", "--png": tmp_path / "out.png"}
    answers = shared / "data" / "genai_bench" / judge / "pairwise.json"
    evaluate("genai_bench", "--answers", answers, *(part for item in files.items() for part in item))
    told = json.loads(files["--json"].read_text())
    assert (told["accuracy"], told["votes"]) == (accuracy, 919)
    assert f"{accuracy:.2f}" in capsys.readouterr().out
    assert files["--png"].stat().st_size > 0


def test_imagenhub(evaluate, shared, tmp_path, capsys):
    out = tmp_path / "out.json"
    data = shared / "data"
    answers = data / "viescore" / "gpt4o_0shot"
    evaluate("imagenhub", "--ratings", data / "imagenhub", "--answers", answers, "--json", out)
    told = json.loads(out.read_text())
    found = {aspect: told[aspect] for aspect in ("overall", "semantic", "perceptual")}
    assert [round(of["mean_spearman"], 4) for of in found.values()] == [0.4025, 0.4311, 0.5313]
    assert [round(of["tanh_mean"], 4) for of in found.values()] == [0.3821, 0.4062, 0.4864]
    assert "0.3821" in capsys.readouterr().out


def test_editreward_bench(evaluate, tmp_path, capsys):
    result = {"id": "a_0", "human_vote": "A>B", "model_vote": "A>B", "model_1": "m1", "model_2": "m2"}
    (tmp_path / "judge.json").write_text(json.dumps({"results": [result, None]}))
    out = tmp_path / "out.json"
    evaluate("editreward_bench", "--answers", tmp_path / "judge.json", "--size", 2, "--json", out)
    told = json.loads(out.read_text())
    assert (told["strict, published"], told["strict, sound"], told["failed"]) == (100, 50, 1)
    assert "1 of 2 pairs have no answer" in capsys.readouterr().out


def test_bad_input_is_one_sentence(evaluate, tmp_path, monkeypatch):
    monkeypatch.delenv("REWARDEDIT_TRACEBACK", raising=False)
    with pytest.raises(SystemExit, match=r"error: there is no .*none\.json"):
        evaluate("genai_bench", "--answers", tmp_path / "none.json")
    with pytest.raises(SystemExit, match=r"error: .* holds 0 files"):
        evaluate("imagenhub", "--ratings", tmp_path, "--answers", tmp_path)
