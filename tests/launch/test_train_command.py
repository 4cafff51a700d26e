"""launch/train.py as a user runs it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from paths import SHARED_DATA
from tiny_models import ROOT, tiny_editor

from rewardedit_jax.editing.editor import Editor

RECIPE = ROOT / "configs" / "reward_ip2p.py"
# A cosine depends on the number of steps: with it, a run that is made longer is not the longer run, and each number of
# steps is another program to compile.
CONSTANT = "--config.optimizer.schedule=constant"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder to work in, with a start editor of random weights."""
    folder = tmp_path_factory.mktemp("train_command")
    tiny_editor().save(folder / "start")
    return folder


def start(place, *arguments, recipe=f"{RECIPE}:debug", **environment):
    """The command, begun."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    command = [sys.executable, str(ROOT / "launch" / "train.py"), "--config", recipe, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=place, env=environment, **pipes)


def run(*arguments, **settings):
    """(exit status, stdout, stderr)"""
    process = start(*arguments, **settings)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def train(place, workdir, *arguments, **settings):
    return run(place, f"--workdir={workdir}", "--config.init=start", *arguments, **settings)


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def complaint(place, *arguments, **settings):
    """What a command that fails tells, which must be short and without traceback."""
    status, out, err = run(place, *arguments, **settings)
    assert status == 1
    assert "Traceback" not in err
    assert out == ""
    return err


@pytest.fixture(scope="module")
def four_steps(place):
    """(working directory, stdout, stderr) of a run of four steps."""
    status, out, err = train(place, "run", "--config.steps=4", CONSTANT)
    assert status == 0, err
    return place / "run", out, err


@pytest.mark.slow
def test_a_run_tells_its_steps_and_nothing_else(four_steps):
    _, out, err = four_steps
    told = [line for line in out.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in told] == ["1/4", "2/4", "3/4", "4/4"]
    assert all(" loss " in line and " examples_per_second " in line for line in told)
    assert not re.findall(r"^[IWE]\d{4} .*", err, re.MULTILINE)  # no log of other packages


@pytest.mark.slow
def test_a_run_leaves_metrics_and_a_model(four_steps):
    workdir = four_steps[0]
    assert [record["step"] for record in records(workdir)] == [1, 2, 3, 4]
    for record in records(workdir):
        assert record.keys() >= {"step", "loss", "grad_norm", "examples_per_second"}
        assert all(record[name] > 0 for name in ("loss", "grad_norm", "examples_per_second"))
    assert json.loads((workdir / "config.json").read_text())["steps"] == 4
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()) == ["2", "4"]
    assert Editor.load(workdir).has_reward


@pytest.mark.slow
def test_a_run_is_not_overwritten(place, four_steps):
    before = (four_steps[0] / "metrics.jsonl").read_text()
    assert "--resume" in complaint(place, "--workdir=run", "--config.init=start")
    assert (four_steps[0] / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_a_run_that_goes_on_is_the_run_that_never_stopped(place, four_steps):
    """From the checkpoint of step 2, as if the run had died in step 4, and on to more steps than first asked for."""
    straight, resumed = four_steps[0], place / "resumed"
    shutil.copytree(straight, resumed)
    shutil.rmtree(resumed / "checkpoints" / "4")
    shutil.rmtree(resumed / "model")
    status, out, err = train(place, "resumed", "--resume", "--config.steps=5", CONSTANT)
    assert status == 0, err
    assert [line.split()[1] for line in out.splitlines() if line.startswith("step ")] == ["3/5", "4/5", "5/5"]
    assert [record["step"] for record in records(resumed)] == [1, 2, 3, 4, 5]
    losses = [[record["loss"] for record in records(workdir)[:4]] for workdir in (straight, resumed)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_ctrl_c_saves(place, four_steps):
    process = start(place, "--workdir=stopped", "--config.init=start", "--config.steps=1000000", CONSTANT)
    metrics, deadline = place / "stopped" / "metrics.jsonl", time.monotonic() + 500
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75
    assert "Traceback" not in err
    step = re.search(r"stopped after step (\d+), .*--resume", err)[1]
    assert (place / "stopped" / "checkpoints" / step).is_dir()
    assert records(place / "stopped")[-1]["step"] == int(step)
    assert not (place / "stopped" / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config.task=edit"], "task='edit': expected one of editing, "),
        (["--config.stepz=3"], 'Did you mean "steps" instead of "stepz"?'),
        (["config.steps=3"], "config.steps=3"),
        (["--config.init=nowhere"], "there is no directory nowhere. Shipped models: "),
        (
            ["--config.init=start", "--config.data.name=triplets", "--config.data.root=lists/x.json"],
            "no file lists/x.json",
        ),
        (["--workdir=gs://never/run", "--config.init=start"], "gs://never/run: expected a local path"),
    ],
)
def test_what_is_wrong_is_said(place, arguments, told):
    assert told in complaint(place, "--workdir=never", *arguments)
    assert not (place / "never").exists()
    assert not (place / "gs:").exists()


@pytest.mark.slow
def test_a_missing_variant_or_workdir_is_said(place):
    told = complaint(place, "--workdir=never", recipe=f"{RECIPE}:shape")
    assert told.startswith("error: ValueError: unknown variant 'shape' of reward_ip2p.py")
    assert "'debug'" in told
    assert "--workdir must have a value" in complaint(place)


@pytest.mark.slow
def test_a_batch_that_cannot_be_divided_over_the_devices_is_said(place):
    told = complaint(place, "--workdir=mesh", "--config.init=start", JAX_NUM_CPU_DEVICES="3")
    assert "batch_size=4 is not divisible by the mesh's data=3" in told


@pytest.mark.slow
def test_help_teaches(place):
    status, out, _ = run(place, "--help")
    assert status == 1  # as absl has it
    for word in (
        "--config configs/reward_ip2p.py:shapes --workdir runs/reward",
        "--resume",
        "metrics.jsonl",
        "launch/edit.py",
    ):
        assert word in out


@pytest.mark.slow
def test_real_photographs_from_a_list(place):
    triplets = SHARED_DATA / "aurora" / "test.json"
    if not triplets.is_file():
        pytest.skip(f"there are no triplets at {triplets}")
    data = ("--config.data.name=triplets", f"--config.data.root={triplets}", "--config.data.resolution=32")
    assert "train without: --config.reward.layout=" in complaint(place, "--workdir=never", "--config.init=start", *data)
    status, _, err = train(place, "photographs", "--config.reward.layout=", "--config.steps=3", CONSTANT, *data)
    assert status == 0, err
    assert [record["step"] for record in records(place / "photographs")] == [1, 2, 3]
    assert not Editor.load(place / "photographs").has_reward
