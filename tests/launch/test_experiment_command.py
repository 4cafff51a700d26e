"""launch/experiment.py as a user runs it, at the smallest size: tiny networks, a few steps, a few scenes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import pytest
from PIL import Image
from tiny_models import ROOT, tiny_editor

from rewardedit_jax.evaluation.experiments.comparison import Comparison, compare
from rewardedit_jax.shapes.editor_benchmark import BASELINE, FULL
from rewardedit_jax.shapes.experiments import EXPERIMENTS

pytestmark = pytest.mark.slow
COUNT = 4
# The programs of test_train_command.py.
TINY = ("--config.init=start", "--config.optimizer.schedule=constant")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder to work in, with a start editor that compiles in seconds."""
    folder = tmp_path_factory.mktemp("experiment_command")
    tiny_editor().save(folder / "start")
    return folder


def run(folder, name, out, *arguments, recipe="reward_ip2p.py:debug"):
    """(exit status, stdout, stderr)"""
    command = [sys.executable, str(ROOT / "launch" / "experiment.py"), name, "--data", "shapes", "--out", out,
               "--recipe", f"{ROOT}/configs/{recipe}", "--count", str(COUNT), *arguments]  # fmt: skip
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def hard(folder):
    """Table 9, which needs one arm: its directory."""
    status, _, err = run(folder, "table9", "runs/hard", *TINY)
    assert status == 0, err
    return folder / "runs" / "hard"


def test_a_neighbour_has_trained_an_arm_already(folder, hard):
    """Table 1 trains its other arm only."""
    model = hard / "reward" / "seed0" / "training" / "model" / "model_index.json"
    before = model.stat().st_mtime_ns
    status, out, err = run(folder, "table1", "runs/main", *TINY)
    assert status == 0, err
    main = folder / "runs" / "main"
    assert model.stat().st_mtime_ns == before
    assert not (main / "reward" / "seed0" / "training").exists()
    assert out.startswith((main / "table.txt").read_text())
    table = json.loads((main / "table.json").read_text())
    assert {(row["arm"], row["asked"]) for row in table["rows"]} >= {
        (BASELINE, "none"), (FULL, "5"), (FULL, "3"), (FULL, "0")
    }  # fmt: skip
    assert [arm["trainings"] for arm in table["arms"]] == [
        ["runs/main/without-reward/seed0/training"], ["runs/hard/reward/seed0/training"]
    ]  # fmt: skip
    assert {"table.txt", "table.md", "table.json", "table.png", "grid.png", "curve.png"} <= {
        file.name for file in main.iterdir()
    }
    records = (main / "without-reward" / "seed0" / "training" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(record)["step"] for record in records] == [1, 2, 3, 4]


def test_hard_samples(hard):
    assert "original edit" in (hard / "table.md").read_text()
    assert Image.open(hard / "grid.png").height > 300


def test_a_directory_of_another_recipe_is_refused(folder, hard):
    status, out, err = run(folder, "table9", "runs/hard", "--config.steps=5")
    assert (status, out) == (1, "")
    assert "steps=5" in err
    assert "Traceback" not in err


def test_positions(folder):
    status, _, err = run(folder, "editreward_table8", "runs/positions", recipe="edit_reward.py:debug")
    assert status == 0, err
    rows = json.loads((folder / "runs" / "positions" / "table.json").read_text())["rows"]
    assert {row["measure"]: row["mean"] for row in rows}["gap"] == 0


def test_a_ranking_starts_from_the_ratings_of_its_seed(folder, monkeypatch):
    """The first two arms of `scorers`. The comparison's steps win over the arm's default of 1000."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    scorers = EXPERIMENTS["scorers"]
    two = replace(scorers, arms=dict(islice(scorers.arms.items(), 2)))
    workdir = folder / "runs" / "scorers"
    recipe, overrides = f"{ROOT}/configs/edit_reward.py:debug", ("--config.steps=2",)
    files = compare(Comparison(two, recipe, overrides, 1, COUNT, workdir, ROOT / "launch"))
    config = json.loads((workdir / "strict-0" / "config.json").read_text())
    assert (config["init"], config["steps"], config["data"]["ties"]) == (str(workdir / "ratings-0"), 2, "strict only")
    table = json.loads((workdir / "table.json").read_text())
    assert list(dict.fromkeys(row["arm"] for row in table["rows"])) == [
        "least change", "chance", "ratings", "ranking, strict pairs"
    ]  # fmt: skip
    assert files[-1] == workdir / "reliability.png"
