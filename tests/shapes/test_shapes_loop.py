"""The loop: its commands on a few edits, the trainings that it asks for, and its report; without trainings."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from paths import ROOT

from rewardedit_jax.data.open_edits import open_edits
from rewardedit_jax.editing.recipe import SOURCES
from rewardedit_jax.shapes import loop as module
from rewardedit_jax.shapes.asked import IN_TABLE
from rewardedit_jax.shapes.editor_benchmark import Result, held_out_scenes, score
from rewardedit_jax.shapes.examples import prepare_shapes
from rewardedit_jax.shapes.loop import Loop, StepFailed
from rewardedit_jax.shapes.loop_report import TITLES, report_loop
from rewardedit_jax.shapes.tasks import ShapesEditingTask
from rewardedit_jax.training.recipe import check_recipe, read_recipe

EDITS, COUNT = 64, 8


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_shapes(tmp_path_factory.mktemp("data"), EDITS, 8)


def loop_in(workdir, root, rule="lcb") -> Loop:
    overrides = (f"--config.data.root={root}", f"--config.data.train={EDITS}", "--config.data.test=8")
    recipe = f"{ROOT}/configs/reward_ip2p.py:debug"
    return Loop(recipe, overrides, "shapes_scorer", 0.25, rule, 2, COUNT, workdir, ROOT / "launch")


def recipes(comparison) -> dict:
    """Arm → its recipe for seed 0."""
    return {arm: read_recipe(comparison.config, comparison.jobs[arm, 0].train[2:-2]) for arm in TITLES}


def test_the_arms_differ_in_their_data_and_in_the_reward_alone(data, tmp_path):
    comparison = loop_in(tmp_path, data.parents[2])._comparison(data)
    assert list(comparison.experiment.arms) == list(TITLES)
    assert comparison.notes() == []
    found = recipes(comparison)
    for config in found.values():
        check_recipe(config, ShapesEditingTask.schema)
    assert [bool(config.reward.layout) for config in found.values()] == [False, False, False, True]
    assert [bool(config.data.labels) for config in found.values()] == [False, False, False, True]
    roots = {arm: config.data.root for arm, config in found.items()}
    assert roots["everything"] == roots["reward"] == str(data)
    assert len(set(roots.values())) == 3
    for config in found.values():
        config.data.root = config.data.labels = config.reward.layout = ""
    assert len({config.to_json() for config in found.values()}) == 1


@pytest.mark.slow
def test_the_commands_of_the_loop(data, tmp_path, monkeypatch):
    """From the labels of the oracle to the parts that the trainings read; a second run finds all of it done."""
    asked = []
    monkeypatch.setattr(module, "compare", lambda comparison: asked.append(comparison) or [])
    for _ in range(2):
        loop_in(tmp_path, data.parents[2]).run()
    sources = {arm: SOURCES[recipe.data.name](recipe.data) for arm, recipe in recipes(asked[0]).items()}
    assert {arm: len(source) for arm, source in sources.items()} == {
        "everything": EDITS,
        "random": EDITS // 4,
        "top": EDITS // 4,
        "reward": EDITS,
    }
    means = {arm: np.mean([source[i].scores for i in range(len(source))]) for arm, source in sources.items()}
    assert means["top"] > means["everything"] + 0.5
    lines = (tmp_path / "curated" / "top" / "provenance.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["key"] for line in lines) == sorted(open_edits(data).keys())


def faked_commands(monkeypatch, status: int) -> list[list[str]]:
    """The commands that the loop then runs, which all end with this status."""
    commands = []

    def run(command, check):
        commands.append(command)
        return SimpleNamespace(returncode=status)

    monkeypatch.setattr(module.subprocess, "run", run)
    monkeypatch.setattr(module, "compare", lambda comparison: [])
    return commands


def test_a_command_that_fails_ends_the_loop(data, tmp_path, monkeypatch):
    commands = faked_commands(monkeypatch, 1)
    with pytest.raises(StepFailed, match=r"label\.py failed"):
        loop_in(tmp_path, data.parents[2]).run()
    assert len(commands) == 1


def test_the_rule_is_that_of_the_top_part(data, tmp_path, monkeypatch):
    commands = faked_commands(monkeypatch, 0)
    loop_in(tmp_path, data.parents[2], rule="mean").run()
    assert all(command[0] == sys.executable for command in commands)
    rules = [command[command.index("--rule") + 1] for command in commands if "--rule" in command]
    assert rules == ["mean", "random"]


@pytest.fixture
def results(tmp_path):
    scenes = held_out_scenes(COUNT)

    def saved(arm, asked, field):
        pictures = np.stack([getattr(scene, field) for scene in scenes])
        for seed in range(2):
            Result({asked: score(pictures, scenes)}, {asked: pictures}).save(tmp_path / arm / str(seed), {})
        return [tmp_path / arm / str(seed) / "result.json" for seed in range(2)]

    fields = {"everything": "edited", "random": "edited", "top": "ideal"}
    found = {TITLES[arm]: saved(arm, "none", field) for arm, field in fields.items()}
    return found | {TITLES["reward"]: saved("reward", IN_TABLE[0], "ideal")}


def test_the_report_compares_with_everything(results, data, tmp_path):
    labels = tmp_path / "labels.jsonl"
    edits = open_edits(data)
    with labels.open("w") as file:
        for i, key in enumerate(edits.keys()):
            file.write(json.dumps({"key": key, "scores": edits.encoded(i).scores, "feedback": ["a", "b", "c"]}) + "\n")
    table, written = report_loop(tmp_path, results, COUNT, labels=labels, parts={TITLES["everything"]: data})
    assert [file.name for file in written] == ["grid.png"]
    gains = {line.arm: [gain.mean for gain in line.gains.values()] for line in table.lines}
    assert gains[TITLES["everything"]] == []
    assert gains[TITLES["random"]] == [0, 0, 0]
    assert min(gains[TITLES["top"]]) > 0
    assert table.details["parts"][TITLES["everything"]]["edits"] == EDITS
    assert f"({EDITS} edits)" in table.to_text()
