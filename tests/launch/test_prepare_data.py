"""launch/prepare_data.py as a user runs it: the published test set, kills, a full disk, clusters."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import tensorflow_datasets as tfds
import yaml
from kills import KILLS
from paths import ROOT
from PIL import Image

SCRIPT = ROOT / "launch" / "prepare_data.py"
CLUSTER = ROOT / "launch" / "cluster"


def start(*arguments, file_kilobytes="unlimited"):
    """The command, begun. Its files cannot be longer than the limit."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    limited = ["bash", "-c", f'ulimit -f {file_kilobytes}; exec "$@"', "limited"]
    return subprocess.Popen([*limited, sys.executable, SCRIPT, *map(str, arguments)], env=environment, **pipes)


def run(*arguments, **settings):
    """(exit status, stdout, stderr)"""
    process = start(*arguments, **settings)
    out, err = process.communicate(timeout=600)
    assert "Traceback" not in err
    return process.returncode, out, err


def write_triplets(folder, count, bad=()):
    """A list of triplets; the edits whose number is `bad` have damaged images."""
    folder.mkdir(parents=True)
    lines = []
    for number in range(count):
        for kind in "ab":
            colour = (number % 256, number // 256, ord(kind))
            Image.new("RGB", (16, 16), colour).save(folder / f"{number}{kind}.png")
        lines.append({"input": f"{number}a.png", "output": f"{number}b.png", "instruction": f"edit {number}"})
    for number in bad:
        (folder / f"{number}b.png").write_bytes(b"cut")
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "list.jsonl"


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_aurora_is_read_by_tfds(shared_data, tmp_path):
    status, out, err = run("aurora", "--source", shared_data / "aurora", "--out", tmp_path / "aurora")
    assert (status, out) == (0, f"{tmp_path / 'aurora'}\n"), err
    records = tfds.builder_from_directory(out.strip()).as_data_source("train")
    assert len(records) == 112
    assert {"source", "edited", "instruction"} <= records[0].keys()
    assert records[0]["instruction"] == b"Put a cat on the seat."
    assert records[0]["source"].shape[-1] == 3
    tasks = [json.loads(records[number]["extra"])["task"] for number in range(112)]
    assert [tasks.count(name) for name in ("magicbrush", "something", "kubric")] == [14, 48, 50]
    assert (tmp_path / "aurora" / "bad.jsonl").read_bytes() == b""


def test_bad_images_are_listed_and_allowed_on_request(tmp_path):
    listing = write_triplets(tmp_path / "source", 5, bad=[1, 4])
    arguments = ["triplets", "--source", listing, "--out", tmp_path / "out"]
    status, out, err = run(*arguments, "--skip-bad", 1)
    assert status == 1
    assert "2 of 5 records are bad" in err
    assert str(tmp_path / "source" / "1b.png") in err
    # The data set is built all the same.
    assert out == f"{tmp_path / 'out'}\n"
    assert len(tfds.builder_from_directory(out.strip()).as_data_source("train")) == 3
    status, _, err = run(*arguments, "--skip-bad", 2)
    assert status == 0
    assert "warning: 2 of 5 records are bad" in err
    reasons = [json.loads(line) for line in (tmp_path / "out" / "bad.jsonl").read_text().splitlines()]
    assert [line["number"] for line in reasons] == [1, 4]


def test_a_part_leaves_the_count_of_bad_records_to_the_merge(tmp_path):
    listing = write_triplets(tmp_path / "source", 4, bad=[1])
    for part in ("1/2", "2/2"):
        status, _, err = run(
            "triplets", "--source", listing, "--out", tmp_path / "out", "--shard", part, "--per-shard", 1
        )
        assert status == 0
        assert ("1b.png" in err) == (part == "2/2")
    assert run("triplets", "--out", tmp_path / "out", "--merge")[0] == 1
    assert run("triplets", "--out", tmp_path / "out", "--merge", "--skip-bad", 1)[0] == 0


def test_a_wrong_command_is_one_sentence(tmp_path):
    for arguments, expected in (
        (["triplets"], "--source is missing"),
        (["triplets", "--source", tmp_path / "nowhere.jsonl"], "there is no"),
        (["triplets", "--source", tmp_path, "--shard", "3/2"], "shard '3/2': expected I/N"),
        (["triplets", "--merge", tmp_path / "nowhere"], "no shards of triplets-train"),
    ):
        status, out, err = run(*arguments, "--out", tmp_path / "out")
        assert (status, out) == (1, "")
        assert expected in err
    assert not (tmp_path / "out").exists()


def test_a_full_disk_stops_clearly_and_the_run_goes_on(tmp_path):
    """A limit of the file size in the process is what a full disk is: writing fails in the middle of a file."""
    listing = write_triplets(tmp_path / "source", 30)
    Image.effect_noise((500, 500), 90).save(tmp_path / "source" / "25b.png")  # more than 200 kB
    arguments = ["triplets", "--source", listing, "--per-shard", 10, "--out"]
    status, out, err = run(*arguments, tmp_path / "out", file_kilobytes=150)
    assert (status, out) == (1, "")
    assert f"File too large: '{tmp_path / 'out'}'" in err
    complete = sorted(file.name for file in (tmp_path / "out").glob("*.report*"))
    assert complete == [f"triplets-train.report-0000{k}-of-00003.json" for k in (0, 1)]
    assert not (tmp_path / "out" / "dataset_info.json").exists()
    assert run(*arguments, tmp_path / "out")[0] == 0
    assert run(*arguments, tmp_path / "whole")[0] == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def kill(process, folder, moments):
    """Kills a run, mostly while it writes: a few files after the last run's. Returns whether it still ran."""
    wanted = len(list(folder.glob("*.report*"))) + moments.randint(1, 5)
    starting = time.time() + moments.uniform(0, 1) if moments.random() < 0.2 else float("inf")
    while process.poll() is None and time.time() < starting and len(list(folder.glob("*.report*"))) < wanted:
        time.sleep(0.001)
    time.sleep(moments.uniform(0, 0.02))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_random_kills_leave_the_same_bytes(tmp_path):
    """At random moments, of the whole set, and of two machines whose parts are merged."""
    listing = write_triplets(tmp_path / "source", 700, bad=[3, 477])
    arguments = ["triplets", "--source", listing, "--per-shard", 2, "--out"]
    moments = random.Random(1)
    assert run(*arguments, tmp_path / "whole", "--skip-bad", 2)[0] == 0
    expected = contents(tmp_path / "whole")

    folder = tmp_path / "killed"
    assert sum(kill(start(*arguments, folder), folder, moments) for _ in range(KILLS)) >= KILLS // 2
    assert run(*arguments, folder, "--skip-bad", 2)[0] == 0
    assert contents(folder) == expected

    parts = [tmp_path / "parts" / str(part) for part in (1, 2)]
    for part in parts:
        shard = ("--shard", f"{part.name}/2")
        assert sum(kill(start(*arguments, part, *shard), part, moments) for _ in range(KILLS // 2)) >= KILLS // 4
        assert run(*arguments, part, *shard)[0] == 0
    assert run("triplets", "--out", tmp_path / "merged", "--skip-bad", 2, "--merge", *parts)[0] == 0
    assert contents(tmp_path / "merged") == expected


def test_the_slurm_job_calls_what_exists(tmp_path):
    """The script starts an array and a merge that waits for it; here `sbatch` runs them at once."""
    script, bin_folder = CLUSTER / "prepare_data.slurm.sh", tmp_path / "bin"
    subprocess.run(["bash", "-n", script], check=True)
    bin_folder.mkdir()
    stub = """#!/bin/bash
script=()
for word in "$@"; do
  [[ $word == --array=1-* ]] && last=${word#--array=1-}
  [[ $word == --* ]] || script+=("$word")
done
if [[ -n ${last:-} ]]; then
  for ((i = 1; i <= last; i++)); do SLURM_ARRAY_TASK_ID=$i bash "${script[@]}" >&2 || exit 1; done
  echo 17  # the number of the job
else
  [[ $* == *--dependency=afterok:17* ]] && bash "${script[@]}"
fi
"""
    (bin_folder / "sbatch").write_text(stub)
    (bin_folder / "python").write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    for file in bin_folder.iterdir():
        file.chmod(0o755)
    listing = write_triplets(tmp_path / "source", 3)
    settings = {"NAME": "triplets", "SOURCE": str(listing), "OUT": str(tmp_path / "out"), "MACHINES": "2"}
    environment = {**os.environ, **settings, "PATH": f"{bin_folder}:{os.environ['PATH']}", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(["bash", script], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(tfds.builder_from_directory(str(tmp_path / "out")).as_data_source("train")) == 3


def test_the_kubernetes_job_calls_what_exists(tmp_path):
    job = yaml.safe_load((CLUSTER / "prepare_data.kubernetes.yaml").read_text())
    assert (job["kind"], job["spec"]["completionMode"]) == ("Job", "Indexed")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (command,) = container["args"]
    assert f"/{job['spec']['completions']}" in command
    listing = write_triplets(tmp_path / "data" / "source", 3)
    command = command.replace("NAME --source /data/NAME", f"triplets --source {listing}")
    command = command.replace("/data/prepared/NAME", str(tmp_path / "out")).replace("python ", f"{sys.executable} ")
    environment = {**os.environ, "JOB_COMPLETION_INDEX": "0", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([*container["command"], command], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "triplets-train.report-00000-of-00001.json").is_file()
