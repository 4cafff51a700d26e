"""launch/compare.py as a user runs it, at the smallest size: tiny networks, a few steps of each arm, a few scenes."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image
from tiny_models import ROOT, tiny_editor

from rewardedit_jax.shapes.editor_benchmark import BASELINE, FULL

pytestmark = pytest.mark.slow
COUNT = 4
# The programs of test_train_command.py.
TINY = ("--config.init=start", "--config.optimizer.schedule=constant")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder to work in, with a start editor that compiles in seconds."""
    folder = tmp_path_factory.mktemp("compare_command")
    tiny_editor().save(folder / "start")
    return folder


def compare(folder, recipe, workdir, *arguments):
    """(exit status, stdout, stderr)"""
    command = [sys.executable, str(ROOT / "launch" / "compare.py"), "--config", f"{ROOT}/configs/{recipe}:debug",
               "--count", str(COUNT), "--workdir", workdir, *arguments]  # fmt: skip
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def half_done(folder):
    """A comparison of one arm: the workdir."""
    status, _, err = compare(folder, "reward_ip2p.py", "editors", "--arms", BASELINE, *TINY)
    assert status == 0, err
    return folder / "editors"


def test_a_half_done_comparison_of_editors_is_completed(folder, half_done):
    """The finished arm is neither trained nor evaluated again; the table and the grid then show both."""
    finished = [half_done / "without-reward" / "seed0" / name for name in
                ("training/model/model_index.json", "evaluation/result.json")]  # fmt: skip
    before = [file.stat().st_mtime_ns for file in finished]
    alone = (half_done / "table.txt").read_text()
    width = Image.open(half_done / "grid.png").width

    status, out, err = compare(folder, "reward_ip2p.py", "editors", "--arms", BASELINE, FULL, *TINY)
    assert status == 0, err
    assert [file.stat().st_mtime_ns for file in finished] == before
    table = (half_done / "table.txt").read_text()
    assert out.startswith(table)
    rows = {(row["arm"], row["asked"]) for row in json.loads((half_done / "table.json").read_text())["rows"]}
    assert rows >= {(BASELINE, "none"), (FULL, "5"), (FULL, "3"), (FULL, "0")}
    assert "Δ following" in table
    assert BASELINE in alone
    assert Image.open(half_done / "grid.png").width > width
    assert {"table.txt", "table.md", "table.json", "grid.png", "curve.png"} <= {
        file.name for file in half_done.iterdir()
    }
    records = (half_done / "reward" / "seed0" / "training" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(record)["step"] for record in records] == [1, 2, 3, 4]


def test_a_directory_of_another_recipe_is_refused(folder, half_done):
    status, out, err = compare(folder, "reward_ip2p.py", "editors", "--config.steps=5")
    assert (status, out) == (1, "")
    assert "steps=5" in err
    assert "Traceback" not in err
    assert not (half_done / "scores").exists()


def test_scorers(folder):
    """A ranking starts from the ratings of its seed; the command's steps win over the arm's default of 1000."""
    status, out, err = compare(folder, "edit_reward.py", "scorers", "--arms", "strict", "--config.steps=2")
    assert status == 0, err
    workdir = folder / "scorers"
    config = json.loads((workdir / "strict-0" / "config.json").read_text())
    assert (config["init"], config["steps"], config["data"]["ties"]) == ("scorers/ratings-0", 2, "strict only")
    table = json.loads((workdir / "table.json").read_text())
    assert table["groups"] == COUNT
    assert list(table["percent"]) == ["ratings", "ranking, strict pairs", "least change", "chance"]
    assert out.startswith((workdir / "table.txt").read_text())
    assert (workdir / "reliability.png").is_file()
