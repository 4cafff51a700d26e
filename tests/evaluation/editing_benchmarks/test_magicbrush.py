"""MagicBrush, single and multi turn, and AURORA: which image an edit starts from, and what it is compared with."""

import json
import shutil

import numpy as np
import pytest
from made_benchmarks import evaluate, read, read_lines, write_magicbrush
from made_sets import aurora, command, magicbrush, write
from PIL import Image

from rewardedit_jax.data.magicbrush import MagicBrushFolder
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.evaluation.statistics import mean_interval
from rewardedit_jax.judging.questions import ask_each
from rewardedit_jax.judging.store import Store

FAST = ("--model", "m", "--steps", 1, "--resolution", 16)
SESSIONS = {"139": 3, "30": 1, "7": 2}


@pytest.fixture
def replay(tmp_path):
    """A judge that answers nothing."""
    with Store(tmp_path / "s.sqlite", create=True) as store:
        store.add_questions(ask_each("openai", "m", {"following": "x"}))
    return ("--judge", "replay", "--store", tmp_path / "s.sqlite")


def pixels(file):
    return np.asarray(Image.open(file))


@pytest.mark.usefixtures("_editor")
def test_single_turn_starts_from_the_images_of_the_data_set(tmp_path, replay):
    data = write_magicbrush(tmp_path / "data", SESSIONS)
    evaluate("magicbrush", "--data", data, *FAST, "--json", tmp_path / "o.json", *replay)
    pairs = read_lines(tmp_path / "o" / "pairs.jsonl")
    keys = ["139/1", "139/2", "139/3", "30/1", "7/1", "7/2"]
    assert [pair["key"] for pair in pairs] == keys
    for pair in pairs:
        session, turn = pair["key"].split("/")
        before = "input" if turn == "1" else f"output{int(turn) - 1}"
        folder = data / "images" / session
        assert (tmp_path / "o" / pair["source"]).read_bytes() == (folder / f"{session}-{before}.png").read_bytes()
        assert (tmp_path / "o" / pair["target"]).read_bytes() == (folder / f"{session}-output{turn}.png").read_bytes()
        assert pair["edited_caption"] == f"shows {session}-output{turn}.png"
        assert (tmp_path / "o" / pair["edited"]).is_file()
    # As the published results are named.
    names = {str(file.relative_to(tmp_path / "o" / "edits")) for file in (tmp_path / "o" / "edits").rglob("*.png")}
    assert names == {"139/139_1.png", "139/139_inde_2.png", "139/139_inde_3.png", "30/30_1.png", "7/7_1.png",
                     "7/7_inde_2.png"}  # fmt: skip
    report = read(tmp_path / "o.json")
    # Without --weights: what needs none is measured, the other published metrics are named as missing.
    assert [*report["metrics"]["missing"]] == ["clip_i", "clip_t", "dino"]
    files = [(tmp_path / "o" / pair["edited"], tmp_path / "o" / pair["target"]) for pair in pairs]
    distances = [np.abs(np.subtract(*(pixels(file) / 255 for file in both))).mean() for both in files]
    assert [item["metrics"]["l1"] for item in report["items"]] == pytest.approx(distances)
    found = report["metrics"]["metrics"]["l1"]
    assert found["value"] == pytest.approx(np.mean(distances))
    assert found["interval"] == pytest.approx(mean_interval(np.asarray(distances), [k.split("/")[0] for k in keys]))
    assert (report["metrics"]["expected"], report["metrics"]["without_edit"]) == (6, 0)
    assert [*report["types"]] == ["turn 1", "turn 2", "turn 3"]
    assert "sets" not in report
    assert [item["group"] for item in report["items"]] == ["139"] * 3 + ["30"] + ["7"] * 2


@pytest.mark.usefixtures("_editor")
def test_multi_turn_starts_from_the_editors_own_images(tmp_path, replay):
    data = write_magicbrush(tmp_path / "data", SESSIONS)
    evaluate("magicbrush_multi_turn", "--data", data, *FAST, "--json", tmp_path / "o.json", *replay)
    report, out = read(tmp_path / "o.json"), tmp_path
    items = {item["key"]: item for item in report["items"]}
    assert items["139/2"]["source"] == items["139/1"]["edited"] == "o/edits/139/139_1.png"
    assert items["139/3"]["source"] == items["139/2"]["edited"] == "o/edits/139/139_iter_2.png"
    assert items["7/2"]["source"] == items["7/1"]["edited"]
    assert all((out / item["edited"]).is_file() for item in items.values())
    # Metrics and the published figure are about the last turn of each session.
    pairs = read_lines(tmp_path / "o" / "pairs.jsonl")
    assert [pair["key"] for pair in pairs] == ["139/3", "30/1", "7/2"]
    assert report["sets"]["final turn"]["following"]["total"] == 3
    assert report["following"]["total"] == 6
    # The first turn is that of the single-turn benchmark.
    evaluate("magicbrush", "--data", data, *FAST, "--json", tmp_path / "single.json", *replay)
    first = "edits/139/139_1.png"
    made, expected = (pixels(tmp_path / folder / first).astype(int) for folder in ("o", "single"))
    np.testing.assert_allclose(made, expected, atol=1)  # batches of other sizes round differently
    second = pixels(tmp_path / "o" / "edits/139/139_iter_2.png"), pixels(tmp_path / "single/edits/139/139_inde_2.png")
    assert (second[0] != second[1]).any()


@pytest.mark.usefixtures("_editor")
def test_a_turn_without_a_source_fails_with_the_turns_after_it(tmp_path, replay):
    data = write_magicbrush(tmp_path / "data", SESSIONS)
    (data / "images" / "139" / "139-input.png").unlink()
    evaluate("magicbrush_multi_turn", "--data", data, *FAST, "--json", tmp_path / "o.json", *replay)
    report = read(tmp_path / "o.json")
    assert report["following"]["reasons"] == {"not asked": 3, "not edited": 2, "missing image": 1}
    assert "139/2" in report["items"][2]["following"]["detail"]
    assert report["metrics"]["without_edit"] == 1
    assert report["metrics"]["metrics"]["l2"]["items"] == 2
    # Again, as after a kill, and with a damaged target: the edit needs none, the metrics lack it.
    shutil.copy(data / "images" / "7" / "7-input.png", data / "images" / "139" / "139-input.png")
    evaluate("magicbrush_multi_turn", "--data", data, *FAST, "--json", tmp_path / "o.json", *replay)
    assert read(tmp_path / "o.json")["following"]["reasons"] == {"not asked": 6}


@pytest.mark.usefixtures("_editor")
def test_incomplete_sessions(tmp_path, replay):
    """Of the hub's layout, session 12 has a damaged target in its second turn; here a first turn is missing too."""
    magicbrush(tmp_path / "hub")
    command("magicbrush", "--source", tmp_path / "hub", "--out", tmp_path / "prepared")
    made = (*FAST, "--json", tmp_path / "o.json", *replay)
    evaluate("magicbrush", "--data", tmp_path / "prepared", *made)
    assert read(tmp_path / "o.json")["following"]["reasons"] == {"not asked": 3, "missing image": 1}
    with pytest.raises(BadRecords, match=r"1 turn: .*whole sessions"):
        evaluate("magicbrush_multi_turn", "--data", tmp_path / "prepared", *made)
    one = tmp_path / "hub" / "data" / "train-00000-of-00002.parquet"  # the second turn of session 77, without the first
    evaluate("magicbrush_multi_turn", "--data", one, *FAST, "--json", tmp_path / "one.json", *replay)
    assert read(tmp_path / "one.json")["following"]["reasons"] == {"not edited": 1, "not asked": 1}


def test_turns_of_another_program(tmp_path, replay):
    """A turn that is missing or damaged is the source of the next one, which fails too."""
    data, edits = write_magicbrush(tmp_path / "data", SESSIONS), tmp_path / "edits"
    for name in ("139/139_1", "139/139_iter_2", "139/139_iter_3", "7/7_iter_2"):
        write(edits / f"{name}.png", (data / "images" / "30" / "30-input.png").read_bytes())
    write(edits / "139" / "139_iter_2.png", b"torn")
    evaluate("magicbrush_multi_turn", "--data", data, "--edits", edits, "--json", tmp_path / "o.json", *replay)
    report = read(tmp_path / "o.json")
    found = {item["key"]: item["following"]["failed"] for item in report["items"]}
    assert found == {
        "139/1": "not asked",
        "139/2": "unreadable edit",
        "139/3": "unreadable edit",
        "30/1": "no edit",
        "7/1": "no edit",
        "7/2": "no edit",
    }


@pytest.mark.usefixtures("_editor")
@pytest.mark.parametrize("prepared", [False, True])
def test_the_development_set_of_the_hub(tmp_path, replay, prepared):
    magicbrush(tmp_path / "hub")
    data = tmp_path / "hub"
    if prepared:
        command("magicbrush", "--source", data, "--split", "dev", "--out", tmp_path / "prepared")
        data = tmp_path / "prepared"
    evaluate("magicbrush", "--data", data, *FAST, "--json", tmp_path / "o.json", *replay)
    report = read(tmp_path / "o.json")
    assert [(item["key"], item["type"]) for item in report["items"]] == [("0:12/1", "turn 1")]
    assert (tmp_path / "o" / "edits" / "12" / "12_1.png").is_file()


@pytest.mark.usefixtures("_editor")
@pytest.mark.parametrize("prepared", [False, True])
def test_auroras_edits(tmp_path, replay, prepared):
    """Two requests about one source are one group; the damaged target is not needed to prepare the others."""
    aurora(tmp_path / "aurora")
    data = tmp_path / "aurora"
    if prepared:
        command("aurora", "--source", data, "--out", tmp_path / "prepared")
        data = tmp_path / "prepared"
    evaluate("aurora_edits", "--data", data, *FAST, "--json", tmp_path / "o.json", *replay)
    report = read(tmp_path / "o.json")
    assert report["following"]["total"] == 3
    pairs = read_lines(tmp_path / "o" / "pairs.jsonl")
    if prepared:
        assert report["following"]["reasons"] == {"not asked": 2, "missing image": 1}
        assert len(pairs) == 2
    else:
        assert report["following"]["reasons"] == {"not asked": 3}
        assert [pair["target"] is None for pair in pairs] == [False, True, False]
        assert [item["group"] for item in report["items"]] == ["images/10.png", "images/20.png", "images/20.png"]
    assert report["types"]["add"]["following"]["total"] == (2 if prepared else 3)


def test_the_folder_of_the_test_set(tmp_path):
    data = write_magicbrush(tmp_path / "data", SESSIONS)
    turns = MagicBrushFolder(data)
    assert turns.keys()[:3] == ["139/1", "139/2", "139/3"]
    assert turns.encoded(2).instruction == "edit 2"
    assert turns.labels()[2].extra == turns.encoded(2).extra
    sessions = json.loads((data / "edit_sessions.json").read_text())
    sessions["139"][1]["input"] = "../../../secret.png"
    sessions["30"][0].pop("instruction")
    write(data / "edit_sessions.json", sessions)
    with pytest.raises(BadRecords, match=r"(?s)30/1: .*instruction.*139/2: .*secret"):
        MagicBrushFolder(data)
    assert len(MagicBrushFolder(data, skip_bad=True)) == 4
    with pytest.raises(FileNotFoundError, match=r"edit_sessions\.json"):
        MagicBrushFolder(tmp_path)


def test_real_sessions_and_edits(shared_data):
    """AURORA's list in the repository's copy has its images; the labels agree with the edits."""
    from rewardedit_jax.evaluation.editing_benchmarks.aurora_edits import open_aurora_edits

    requests = open_aurora_edits(shared_data / "aurora")
    assert len(requests.items) == 112
    assert {item.label.edit_type for item in requests.items} == {"magicbrush", "something", "kubric"}
    first = requests.items[0]
    assert requests.read(first).instruction == first.label.instruction
    assert requests.target(first).source != requests.read(first).source
