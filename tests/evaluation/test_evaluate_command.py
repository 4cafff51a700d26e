"""launch/evaluate.py on stored answers and on a scorer, as a user calls it."""

import importlib.util
import json
import runpy
import shutil
import sys

import pytest
from paths import ROOT
from PIL import Image
from tiny_scorers import shapes_scorer

from rewardedit_jax.evaluation import charts
from rewardedit_jax.evaluation.reward_models import imagenhub

EVALUATE = str(ROOT / "launch" / "evaluate.py")


@pytest.fixture
def evaluate(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
        runpy.run_path(EVALUATE, run_name="__main__")

    return run


@pytest.mark.parametrize(("judge", "accuracy"), [("gpt4o", 53.54), ("random", 25.90)])
def test_genai_bench(evaluate, shared_data, tmp_path, capsys, judge, accuracy):
    files = {"--json": tmp_path / "out.json", "--png": tmp_path / "out.png"}
    answers = shared_data / "genai_bench" / judge / "pairwise.json"
    evaluate("genai_bench", "--answers", answers, *(part for item in files.items() for part in item))
    measured = json.loads(files["--json"].read_text())
    assert (measured["accuracy"], measured["votes"]) == (accuracy, 919)
    assert f"{accuracy:.2f}" in capsys.readouterr().out
    assert files["--png"].stat().st_size > 0


def test_a_missing_matplotlib_is_found_before_the_work(evaluate, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: name != "matplotlib" and find_spec(name, *a))
    with pytest.raises(SystemExit, match=r"rewardedit_jax\[plots\]"):
        evaluate("genai_bench", "--answers", tmp_path / "none.json", "--png", tmp_path / "out.png")


def test_imagenhub(evaluate, shared_data, tmp_path, capsys, monkeypatch):
    """The answers include a model that nobody rated: it changes no number, and the report names it."""
    monkeypatch.setattr(imagenhub, "bootstrap_interval", lambda *_: (0.0, 1.0))  # test_imagenhub.py has the intervals
    out = tmp_path / "out.json"
    data, answers = shared_data, tmp_path / "gpt4o_0shot"
    shutil.copytree(data / "viescore" / "gpt4o_0shot", answers)
    shutil.copytree(answers / "DiffEdit", answers / "NewModel")
    evaluate("imagenhub", "--ratings", data / "imagenhub", "--answers", answers, "--json", out)
    measured = json.loads(out.read_text())
    found = {aspect: measured[aspect] for aspect in ("overall", "semantic", "perceptual")}
    assert [round(of["mean_spearman"], 4) for of in found.values()] == [0.4025, 0.4311, 0.5313]
    assert [round(of["tanh_mean"], 4) for of in found.values()] == [0.3821, 0.4062, 0.4864]
    assert measured["unrated"] == ["NewModel"]
    text = capsys.readouterr().out
    assert "0.3821" in text
    assert "nobody rated them: NewModel." in text


def test_editreward_bench(evaluate, tmp_path, capsys):
    result = {"id": "a_0", "human_vote": "A>B", "model_vote": "A>B", "model_1": "m1", "model_2": "m2"}
    (tmp_path / "judge.json").write_text(json.dumps({"results": [result, None]}))
    out = tmp_path / "out.json"
    evaluate("editreward_bench", "--answers", tmp_path / "judge.json", "--size", 2, "--json", out)
    measured = json.loads(out.read_text())
    assert (measured["strict, published"], measured["strict, sound"], measured["failed"]) == (100, 50, 1)
    assert "1 of 2 pairs have a readable answer" in capsys.readouterr().out


def test_editreward_bench_in_both_orders(evaluate, tmp_path):
    """The judge prefers the edit shown first, which is another one in each file."""
    result = {"id": "a_0", "human_vote": "A>B", "model_vote": "A>B", "model_1": "m1", "model_2": "m2"}
    exchanged = {**result, "human_vote": "B>A", "model_1": "m2", "model_2": "m1"}
    for name, measured in (("one", result), ("two", exchanged)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"results": [measured]}))
    files = ("--answers", tmp_path / "one.json", "--swapped", tmp_path / "two.json")
    evaluate("editreward_bench", *files, "--size", 2, "--json", tmp_path / "out.json")
    measured = json.loads((tmp_path / "out.json").read_text())
    assert (measured["strict, published"], measured["strict, sound"]) == (100, 50)
    assert measured["same answer in both orders, sound"] == 0


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    """The directory of a scorer with random weights."""
    directory = tmp_path_factory.mktemp("scorer")
    shapes_scorer().save(directory)
    return directory


@pytest.fixture
def write(tmp_path):
    """Writes a benchmark file next to six images, 0.png to 5.png."""
    for i in range(6):
        Image.new("RGB", (32, 32), (40 * i, 90, 200 - 30 * i)).save(tmp_path / f"{i}.png")

    def to(records):
        (tmp_path / "items.json").write_text(json.dumps(records))
        return tmp_path / "items.json"

    return to


def _pair(first, second, one, two):
    paths = {"path_src": "0.png", "path1": f"{first}.png", "path2": f"{second}.png"}
    return {"prompt": "make it red", **paths, "model1_dim1_score": one, "model2_dim1_score": two}


@pytest.mark.parametrize("benchmark", ["genai_bench", "aurora"])
def test_a_scorer_on_pairs(evaluate, scorer, write, tmp_path, capsys, benchmark):
    pairs = write([_pair(1, 2, 4, 1), _pair(2, 3, 1, 3), _pair(4, 5, 2, 2), _pair(5, 1, 3, 1), _pair(3, 4, 1, 1)])
    evaluate(benchmark, "--model", scorer, "--pairs", pairs, "--json", tmp_path / "out.json")
    measured = json.loads((tmp_path / "out.json").read_text())
    assert (measured["pairs"], measured["ties"]) == (5, 2)
    assert "accuracy with ties" in capsys.readouterr().out


def test_an_error_names_the_item_of_the_edit(evaluate, scorer, write):
    records = [_pair(1, 2, 4, 1) for _ in range(50)]
    records[45]["prompt"] = "make it <|Reward|>"
    with pytest.raises(SystemExit, match=r"items\.json, item 45, path1: the instruction contains <\|Reward\|>"):
        evaluate("genai_bench", "--model", scorer, "--pairs", write(records))


@pytest.mark.parametrize("benchmark", ["imagenhub", "aurora"])
def test_a_scorer_on_points(evaluate, scorer, write, tmp_path, benchmark):
    names = {"aurora": ("prompt", "input", "gen"), "imagenhub": ("instruction", "input_path", "output_path")}
    rated = [("make it red", "0.png", f"{i}.png") for i in range(1, 6)]
    points = write(
        [{**dict(zip(names[benchmark], edit, strict=True)), "score": i, "model": "m"} for i, edit in enumerate(rated)]
    )
    evaluate(benchmark, "--model", scorer, "--points", points, "--json", tmp_path / "out.json")
    measured = json.loads((tmp_path / "out.json").read_text())
    assert measured["edits"] == 5
    assert -1 <= measured["per_model"]["m"] <= 1


def test_a_scorer_on_groups(evaluate, scorer, write, tmp_path):
    first, second, third = (f"{i}.png" for i in (1, 2, 3))
    group = {"prompt": "make it red", "path_src": "0.png", "paths_generated": [first, second, third]}
    groups = write([{**group, "human_vote": {"ranking": "B>A>C"}}])
    images = tmp_path / "images"
    images.mkdir()
    for name in ("0.png", first, second, third):
        (tmp_path / name).rename(images / name)
    out = tmp_path / "out.json"
    evaluate("editreward_bench", "--model", scorer, "--groups", groups, "--images", images, "--json", out)
    assert json.loads(out.read_text())["counts"]["K = 3"]["groups"] == 1


def test_groups_with_faults_are_left_out_and_counted(evaluate, scorer, write, tmp_path, capsys):
    good = {"prompt": "make it red", "path_src": "0.png", "paths_generated": ["1.png", "2.png", "3.png"]}
    bad = {**good, "paths_generated": ["4.png", "5.png"], "human_vote": {"ranking": "best"}}
    groups = write([{**good, "human_vote": {"ranking": "B>A>C"}}, bad])
    measure = ("editreward_bench", "--model", scorer, "--groups")
    with pytest.raises(SystemExit, match=r"ranking of 2 edits is 'best'(?s:.*)--skip-bad"):
        evaluate(*measure, groups)
    evaluate(*measure, groups, "--skip-bad", "--json", tmp_path / "out.json")
    measured = json.loads((tmp_path / "out.json").read_text())
    assert measured["left_out"] == {"count": 1, "first": ["items, item 1"]}
    assert "1 groups with faults are left out: items, item 1." in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"no group .* all 1 have faults"):
        evaluate(*measure, write([bad]), "--skip-bad")


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        (
            (),
            r"2 of 10 edits .*\n.*item 1, path1: edited: image .*\n.*item 3, path2: missing image .*\n--skip-bad",
        ),
        (("--skip-bad", "1"), "2 of 10 edits cannot be scored"),
        (("--skip-bad", "2"), None),
        (("--skip-bad",), None),
    ],
)
def test_edits_that_cannot_be_scored(evaluate, scorer, write, tmp_path, capsys, allowed, message):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    records = [
        _pair(1, 2, 4, 1),
        _pair("broken", 3, 1, 3),
        _pair(4, 5, 2, 1),
        _pair(5, "none", 3, 1),
        _pair(3, 4, 1, 2),
    ]
    measure = ("aurora", "--model", scorer, "--pairs", write(records), "--json", tmp_path / "out.json", *allowed)
    if message:
        with pytest.raises(SystemExit, match=message):
            evaluate(*measure)
        return
    evaluate(*measure)
    measured = json.loads((tmp_path / "out.json").read_text())
    assert (measured["unscored"]["count"], measured["coverage"], measured["pairs"]) == (2, 0.8, 5)
    assert [row["of"] for row in measured["rows"]] == ["5 pairs", "3 pairs"] * 2
    assert "2 edits could not be scored: " in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [("--seed", "-1"), ("--seed", "x"), ("--skip-bad", "-2"), ("--skip-bad", "nan")])
def test_numbers_that_are_not_counts(evaluate, tmp_path, capsys, arguments):
    with pytest.raises(SystemExit):
        evaluate("genai_bench", "--answers", tmp_path / "pairwise.json", *arguments)
    assert f"{arguments[0]}: " in capsys.readouterr().err


def test_lists_name_images_of_their_directory(evaluate, scorer, write, tmp_path):
    pairs = write([{**_pair(1, 2, 4, 1), "path1": "../1.png"}, _pair(1, 2, 4, 1)])
    with pytest.raises(SystemExit, match=r"item 0: '\.\./1\.png' lies outside the folder .*--allow-outside"):
        evaluate("aurora", "--model", scorer, "--pairs", pairs)
    with pytest.raises(SystemExit, match=r"1 of 4 edits .*\n.*item 0, path1: missing image"):
        evaluate("aurora", "--model", scorer, "--pairs", pairs, "--allow-outside")


def test_a_chart_that_fails_comes_after_the_numbers(evaluate, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(charts, "save_figure", fail)
    (tmp_path / "pairwise.json").write_text(json.dumps([{"idx": 0, "human_vote": "leftvote", "model_vote": "[[A>B]]"}]))
    files = ("--json", tmp_path / "out.json", "--png", tmp_path / "out.png")
    with pytest.raises(SystemExit, match="no space left"):
        evaluate("genai_bench", "--answers", tmp_path / "pairwise.json", *files)
    assert "four labels" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["votes"] == 1


def test_lost_answers_are_in_the_report(evaluate, tmp_path, capsys):
    votes = [{"idx": 0, "human_vote": "leftvote", "model_vote": "[[A>B]]"}]
    votes += [{"idx": 1, "human_vote": "leftvote", "model_vote": None}]
    votes += [{"idx": 2, "human_vote": "leftvote", "model_vote": "[[Model A is better]]"}]
    (tmp_path / "pairwise.json").write_text(json.dumps(votes), "utf-8-sig")
    evaluate("genai_bench", "--answers", tmp_path / "pairwise.json", "--json", tmp_path / "out.json")
    measured = json.loads((tmp_path / "out.json").read_text())
    assert (measured["accuracy"], measured["coverage"]) == (33.33, pytest.approx(1 / 3))
    text = capsys.readouterr().out
    assert "Coverage: 33.33 %" in text
    assert "1 missing (idx 1); 1 unreadable (idx 2); 0 refused" in text


@pytest.mark.parametrize("asked", [("genai_bench", "--pairs"), ("editreward_bench", "--groups")])
def test_pictures_inside_parquet_have_no_stored_scores(evaluate, tmp_path, asked):
    with pytest.raises(SystemExit, match=r"inside its parquet files.*--model"):
        evaluate(*asked, tmp_path, "--scores", tmp_path / "scores.jsonl")


def test_stored_scores_give_the_numbers_of_their_scorer(evaluate, scorer, write, tmp_path, monkeypatch):
    """Scores written by launch/score.py replace the scorer; every edit needs one."""
    records = [_pair(1, 2, 4, 1), _pair(2, 3, 1, 3), _pair(4, 5, 2, 2)]
    pairs, edits = write(records), tmp_path / "edits.jsonl"
    lines = [
        {"source": "0.png", "edited": [record["path1"], record["path2"]], "instruction": record["prompt"]}
        for record in records
    ]
    edits.write_text("\n".join(map(json.dumps, lines)))
    out, stored = tmp_path / "out.json", tmp_path / "scores.jsonl"
    monkeypatch.setattr(sys, "argv", ["score.py", *map(str, ("--model", scorer, "--list", edits, "--output", stored))])
    runpy.run_path(str(ROOT / "launch" / "score.py"), run_name="__main__")
    measured = []
    for judge in (("--model", scorer), ("--scores", stored)):
        evaluate("aurora", *judge, "--pairs", pairs, "--json", out)
        measured.append(json.loads(out.read_text()))
    assert measured[0] == measured[1]
    stored.write_text("\n".join(stored.read_text().splitlines()[1:]))
    with pytest.raises(SystemExit, match=r"1 of 6 edits .*\n.*1\.png has no score in .*scores\.jsonl"):
        evaluate("aurora", "--scores", stored, "--pairs", pairs)


@pytest.mark.parametrize(
    "arguments",
    [
        ("genai_bench",),
        ("genai_bench", "--answers", "a.json", "--model", "m"),
        ("genai_bench", "--model", "m"),
        ("aurora", "--model", "m", "--pairs", "a.json", "--points", "b.json"),
        ("aurora", "--model", "m", "--scores", "s.jsonl", "--pairs", "a.json"),
        ("imagenhub", "--answers", "a"),
        ("editreward_bench", "--answers", "a.json"),
        ("editreward_bench", "--model", "m", "--groups", "a.json", "--swapped", "b.json"),
        ("genai_bench", "--swapped", "b.json"),
    ],
)
def test_arguments_that_do_not_go_together(evaluate, arguments):
    with pytest.raises(SystemExit, match=r"error: arguments .*--\w+.*, or --\w+ and --scores"):
        evaluate(*arguments)


def test_bad_input_is_a_short_error(evaluate, tmp_path, monkeypatch):
    monkeypatch.delenv("REWARDEDIT_TRACEBACK", raising=False)
    with pytest.raises(SystemExit, match=r"error: .*none\.json"):
        evaluate("genai_bench", "--answers", tmp_path / "none.json")
    with pytest.raises(SystemExit, match=r"error: .* has 0 files"):
        evaluate("imagenhub", "--ratings", tmp_path, "--answers", tmp_path)
