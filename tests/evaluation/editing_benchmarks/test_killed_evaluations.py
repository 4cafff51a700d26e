"""launch/evaluate.py real_edit as a process: killed at random moments, and 560 edits with a judge that misbehaves."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from kills import KILLS
from loopback_endpoint import endpoint
from made_benchmarks import read, write_edits, write_real_edit
from paths import ROOT

from rewardedit_jax.reward import PERSPECTIVES

PHOTOGRAPHS = 6


def start(*words):
    command = [sys.executable, ROOT / "launch" / "evaluate.py", "real_edit", *words]
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*map(str, command)], env=environment | {"PYTHONPATH": str(ROOT)}, **pipes)


def finish(process):
    printed, error = process.communicate(timeout=900)
    assert process.returncode == 0, error
    used, _, table = printed.partition("\n")  # the first line names the store
    assert " answers in " in used
    return table


def judge(server, folder):
    return ("--judge", "openai", "--judge-model", "m", "--base-url", server.url, "--store", folder / "s.sqlite")


def work(folder, server):
    """Edits that exist, and requests that were answered."""
    edits = folder / "out" / "edits"
    return len(list(edits.glob("*/*.png"))) + len(server.requests()) if edits.is_dir() else 0


@pytest.mark.slow
def test_random_kills_end_with_the_same_table(tmp_path):
    """While edits are made and while they are judged; nothing that is stored is asked again."""
    data = write_real_edit(tmp_path / "data", PHOTOGRAPHS)
    behaviour = {"delay": 0.05, "3 quality": ["seven"], "5 following": ["refusal"]}
    made = ("--data", data, "--model", "shapes_reward", "--steps", 4, "--batch-size", 4, "--concurrency", 2)

    def run(folder, server):
        return start(*made, "--json", folder / "out.json", *judge(server, folder))

    with endpoint(tmp_path / "whole" / "server", behaviour) as server:
        table = finish(run(tmp_path / "whole", server))
        total = work(tmp_path / "whole", server)
    assert total == 7 * PHOTOGRAPHS * 4
    rng, states, folder = random.Random(0), set(), tmp_path / "killed"
    with endpoint(folder / "server", behaviour) as server:
        # Random amounts of work, not times: most of the time of a run is its start.
        for share in sorted(rng.uniform(0, 0.98) for _ in range(KILLS)):
            process = run(folder, server)
            while work(folder, server) < share * total and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            states.add(work(folder, server))
        assert finish(run(folder, server)) == table
        asked = [line["item"] for line in server.requests()]
    # A request under way when its run is killed is asked again: at most those of all connections.
    assert len(asked) - len(set(asked)) <= 2 * KILLS
    assert len(states) > KILLS // 3
    assert (folder / "out.json").read_bytes() == (tmp_path / "whole" / "out.json").read_bytes()


WORDS = (
    "ok",
    "prose",
    "429",
    "close",
    "not json",
    "400",
    "cut",
    "keys",
    "seven",
    "empty",
    "refusal",
    "field",
    "filter",
)


@pytest.mark.slow
def test_560_edits_and_three_questions_are_accounted_for(tmp_path):
    data, edits = write_real_edit(tmp_path / "data", 80), write_edits(tmp_path / "edits", 80)
    (edits / "7.png" / "3.png").unlink()
    rng = random.Random(1)
    behaviour = {f"{i} {measure}": [rng.choice(WORDS)] for i in range(560) for measure in PERSPECTIVES}
    with endpoint(tmp_path / "server", behaviour) as server:
        made = ("--data", data, "--edits", edits, "--json", tmp_path / "out.json", "--retries", 0)
        finish(start(*made, *judge(server, tmp_path)))
    report = read(tmp_path / "out.json")
    assert len(report["items"]) == 560
    for measure in PERSPECTIVES:
        found = report[measure]
        good = sum(behaviour[f"{i} {measure}"][0] in ("ok", "prose") for i in range(560) if i != 7 * 7 + 2)
        assert (found["total"], found["answered"], found["failed"]) == (560, good, 560 - good)
        assert found["reasons"].pop("no edit") == 1
        assert sum(found["reasons"].values()) == 560 - good - 1
        by_type = [some[measure] for some in report["types"].values()]
        assert [some["total"] for some in by_type] == [80] * 7
        assert sum(some["answered"] for some in by_type) == good
