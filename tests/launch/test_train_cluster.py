"""The job files that train on clusters: what they would start, and what they start where the cluster is a stub."""

import math
import os
import re
import subprocess
import time

import pytest
import yaml
from paths import ROOT

CLUSTER = ROOT / "launch" / "cluster"
SETTINGS = {
    "NAME": "reward",
    "ZONE": "us-east5-b",
    "TYPE": "v6e-64",
    "SETUP": "echo ready >setup.txt",
    "CONFIG": "configs/reward_ip2p.py",
}
PYTHON = 'echo "$*" >>"$CALLS"; exit "${STATUS:-0}"'  # in place of a training


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with stubs of the commands that the scripts call. They write their words to calls.txt."""

    def stub(name, script):
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    (tmp_path / "bin").mkdir()
    stub("python", PYTHON)
    stub("srun", 'exec "$@"')
    stub("scontrol", 'echo "scontrol $*" >>"$CALLS"')
    stub("gcloud", 'case "$*" in *describe*) echo ACTIVE ;; *ssh*) exec bash -c "${!##--command=}" ;; esac')
    settings = SETTINGS | {
        "WORKDIR": str(tmp_path / "runs"),
        "HOME": str(tmp_path),
        "CALLS": str(tmp_path / "calls.txt"),
    }
    for name, value in (settings | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}).items():
        monkeypatch.setenv(name, value)
    return tmp_path


def run(name, *arguments, **environment):
    command = ["bash", CLUSTER / name, *arguments]
    return subprocess.run(command, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, timeout=60)


def assert_trains(words, workdir):
    """The words after "python" are a command that launch/train.py takes, and that can be repeated."""
    script, *arguments = words
    assert script == "launch/train.py"
    flags = {word[2:].partition("=")[0].partition(".")[0] for word in arguments if word.startswith("--")}
    defined = set(re.findall(r'flags\.DEFINE_\w+\("(\w+)"', (ROOT / script).read_text("utf-8")))
    assert flags == {"config", *defined}
    assert arguments[arguments.index("--workdir") + 1] == str(workdir)
    assert (ROOT / arguments[arguments.index("--config") + 1]).is_file()


@pytest.mark.parametrize("name", ["train.slurm.sh", "train.tpu.sh"])
def test_a_dry_run_prints_and_starts_nothing(place, name):
    subprocess.run(["bash", "-n", CLUSTER / name], check=True)
    done = run(name, "--config.mesh.fsdp=8", DRY_RUN="1")
    assert (done.returncode, done.stderr) == (0, "")
    # A command for the shell of another host is printed with quotes in quotes.
    words = re.sub(r"[\\']", " ", done.stdout[done.stdout.index("launch/train.py") :]).partition(" >>")[0].split()
    assert_trains(words, place / "runs")
    assert words[-1] == "--config.mesh.fsdp=8"
    assert not (place / "runs").exists()
    assert not (place / "calls.txt").exists()


@pytest.mark.parametrize(("status", "queued"), [(0, False), (1, False), (75, True)])
def test_the_slurm_job_is_queued_again_if_it_was_asked_to_stop(place, status, queued):
    done = run("train.slurm.sh", STATUS=str(status))
    assert done.returncode == status, done.stderr
    assert (place / "runs").is_dir()
    train, *others = (place / "calls.txt").read_text().splitlines()
    assert_trains(train.split(), place / "runs")
    assert others == (["scontrol requeue 17"] if queued else [])


def test_every_host_of_a_tpu_slice_is_set_up_once(place):
    for calls in (1, 2):
        done = run("train.tpu.sh", "--config.mesh.fsdp=8")
        assert done.returncode == 0, done.stderr
        deadline = time.monotonic() + 30
        while not ((file := place / "calls.txt").exists() and file.read_text().count("\n") == calls):
            assert time.monotonic() < deadline  # it runs in the background
            time.sleep(0.02)
    for line in file.read_text().splitlines():
        assert_trains(line.split(), place / "runs")
    assert (place / "train" / "setup.txt").read_text() == "ready\n"
    (place / "train" / ".ready").unlink()
    done = run("train.tpu.sh", SETUP="false")
    assert done.returncode != 0
    assert file.read_text().count("\n") == 2


def test_the_set_of_gke_has_a_pod_for_each_host(place):
    jobs = yaml.safe_load((CLUSTER / "train.jobset.yaml").read_text())
    assert jobs["kind"] == "JobSet"
    (slices,) = (job["template"]["spec"] for job in jobs["spec"]["replicatedJobs"])
    pod = slices["template"]["spec"]
    (container,) = pod["containers"]
    chips = math.prod(map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")))
    assert chips == container["resources"]["limits"]["google.com/tpu"] * slices["parallelism"]
    assert slices["parallelism"] == slices["completions"]
    (command,) = container["args"]
    command = command.replace("/data/runs/NAME", str(place / "runs"))
    done = subprocess.run([*container["command"], command], env=os.environ | {"STATUS": "75"}, cwd=ROOT)
    assert done.returncode == 75
    assert_trains((place / "calls.txt").read_text().split(), place / "runs")
    assert (place / "runs").is_dir()
