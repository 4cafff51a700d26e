"""launch/label.py as a process: killed, on a full disk, without network, and its exit status."""

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter

import pytest
from judged_edits import read_lines, write_edits
from loopback_endpoint import endpoint
from paths import ROOT

from rewardedit_jax.judging.store import Store

LABEL = [sys.executable, str(ROOT / "launch" / "label.py")]


def environment(**more):
    return {key: value for key, value in os.environ.items() if key != "OPENAI_API_KEY"} | {
        "PYTHONPATH": str(ROOT),
        **more,
    }


def label(*arguments, before=()):
    command = [*before, *LABEL, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment(), check=False)


def openai(file, server, folder):
    return ("--data", file, "--judge", "openai", "--base-url", server.url, "--model", "m",
            "--store", folder / "s.sqlite", "--out", folder / "labels.jsonl")  # fmt: skip


def test_the_endpoint_judge_starts_without_networks():
    code = (
        "import sys; from rewardedit_jax.judging import command; import rewardedit_jax.judging.transport\n"
        "assert not {'jax', 'flax', 'transformers', 'tensorflow_datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), cwd=ROOT)


def test_a_run_and_its_replay(tmp_path):
    """The replay needs no server and writes the same bytes; both end with status 1 for the item without an answer."""
    file = write_edits(tmp_path / "data", 4)
    with endpoint(tmp_path / "server", {"2 quality": ["seven"]}) as server:
        done = label(*openai(file, server, tmp_path))
    replayed = label("--data", file, "--judge", "replay", "--store", tmp_path / "s.sqlite", "--out", tmp_path / "again")
    assert (tmp_path / "labels.jsonl").read_bytes() == (tmp_path / "again").read_bytes()
    for result in (done, replayed):
        assert result.returncode == 1
        assert "1 of 12 items" in result.stderr
        assert "2:2_b.png, quality: out of range" in result.stderr
    assert "12,000 prompt tokens" in done.stdout
    allowed = label(
        "--data",
        file,
        "--judge",
        "replay",
        "--store",
        tmp_path / "s.sqlite",
        "--out",
        tmp_path / "again",
        "--skip-bad",
        1,
    )
    assert allowed.returncode == 0
    failure = read_lines(tmp_path / "again")[2]["failures"][0]
    assert (failure["perspective"], failure["reason"]) == ("quality", "out of range")


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    """The labels equal those of an undisturbed run, and nothing is asked again that is stored."""
    rng, file = random.Random(1), write_edits(tmp_path / "data", 120)
    behaviour = {"delay": 0.3, "3 quality": ["seven"], "4 quality": ["500", "ok"], "5 following": ["refusal"]}
    with endpoint(tmp_path / "undisturbed", behaviour) as server:
        label(*openai(file, server, tmp_path / "undisturbed"))
    killed, store = 0, tmp_path / "s.sqlite"
    with endpoint(tmp_path / "server", behaviour) as server:
        command = [*LABEL, *map(str, openai(file, server, tmp_path)), "--concurrency", "4"]
        for _ in range(20):
            stored, before = stored_items(store), len(server.requests())
            process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE)
            time.sleep(rng.uniform(0.3, 3.0))
            killed += process.poll() is None
            process.kill()
            process.communicate()
            assert not stored & {line["item"] for line in server.requests()[before:]}
        stored, before = stored_items(store), len(server.requests())
        assert label(*openai(file, server, tmp_path)).returncode == 1
        assert not stored & {line["item"] for line in server.requests()[before:]}
        assert len({line["item"] for line in server.requests()}) == 360
    assert killed == 20
    assert (tmp_path / "labels.jsonl").read_bytes() == (tmp_path / "undisturbed" / "labels.jsonl").read_bytes()


def stored_items(store):
    """The items with an answer, as the server names them."""
    if not store.exists():
        return set()
    with sqlite3.connect(store) as database:
        rows = database.execute("SELECT instruction, perspective FROM readable").fetchall()
    return {f"{instruction.split()[1]} {perspective}" for instruction, perspective in rows}


def test_a_full_disk(tmp_path):
    """The run stops with one sentence and keeps what it has; with room it goes on and asks only for the rest."""
    file = write_edits(tmp_path / "data", 100)
    with endpoint(tmp_path / "server", {"delay": 0.02}) as server:
        small_files = ["sh", "-c", 'ulimit -f 150; exec "$@"', "sh"]  # in blocks of 512 or 1024 bytes
        stopped = label(*openai(file, server, tmp_path), before=small_files)
        assert stopped.returncode == 1
        assert "s.sqlite" in stopped.stderr
        assert "Free some space" in stopped.stderr
        assert "Traceback" not in stopped.stderr
        stored = stored_items(tmp_path / "s.sqlite")
        assert 0 < len(stored) < 300
        before = len(server.requests())
        assert label(*openai(file, server, tmp_path)).returncode == 0
        assert not stored & {line["item"] for line in server.requests()[before:]}
    assert len(read_lines(tmp_path / "labels.jsonl")) == 100


def test_a_disk_that_is_nearly_full(tmp_path, monkeypatch):
    monkeypatch.setattr("rewardedit_jax.judging.database._ROOM", 2**80)
    with Store(tmp_path / "s.sqlite", create=True) as store, pytest.raises(ValueError, match=r"s\.sqlite.* free"):
        store.check_room()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--judge", "openai"], "--model"),
        (["--judge", "openai", "--model", "m"], "OPENAI_API_KEY"),
        (["--judge", "openai", "--model", "m", "--budget", "1"], "--price-in"),
        (["--judge", "openai", "--model", "m", "--rubrics", "nowhere"], "following.txt"),
        (["--judge", "openai", "--model", "m", "--base-url", "file:///v1"], "--base-url"),
        (["--judge", "replay"], "store"),
        (["--judge", "replay", "--out", "/"], "--out"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, named):
    file = write_edits(tmp_path / "data", 1)
    done = label("--data", file, "--store", tmp_path / "s.sqlite", *arguments)
    assert done.returncode == 1
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_shards_of_two_machines_merge(tmp_path):
    file = write_edits(tmp_path / "data", 5)
    with endpoint(tmp_path / "server") as server:
        for shard in ("1/2", "2/2"):
            store = tmp_path / f"{shard[0]}.sqlite"
            arguments = "--data", file, "--judge", "openai", "--base-url", server.url, "--model", "m", "--store", store
            assert label(*arguments, "--shard", shard).returncode == 0
        assert Counter(Counter(line["item"] for line in server.requests()).values()) == {1: 15}
    merged = label("merge", tmp_path / "1.sqlite", tmp_path / "2.sqlite", "--store", tmp_path / "s.sqlite")
    assert "9 new answers" in merged.stdout
    assert "6 new answers" in merged.stdout
    replay = label("--data", file, "--judge", "replay", "--store", tmp_path / "s.sqlite", "--out", tmp_path / "labels")
    assert replay.returncode == 0
    assert len(read_lines(tmp_path / "labels")) == 5


def test_the_batch_form(tmp_path):
    """Requests are written, results read in any order, and what failed is due again."""
    file, store = write_edits(tmp_path / "data", 3), tmp_path / "s.sqlite"
    common = "batch", "--data", file, "--model", "m", "--store", store
    assert label(*common, "--write", tmp_path / "requests").returncode == 0
    requests = read_lines(tmp_path / "requests" / "requests-00001.jsonl")
    assert len({request["custom_id"] for request in requests}) == 9
    results = []
    for i, request in enumerate(reversed(requests)):
        text = json.dumps({"score": i % 6, "feedback": request["body"]["messages"][0]["content"][0]["text"][:30]})
        body = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": None}
        results.append(
            {"custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}
        )
    results[0] |= {"response": {"status_code": 500, "body": {}}}
    results[1] |= {"response": None, "error": {"message": "expired"}}
    results.append(results[2] | {"custom_id": "00" * 24})
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(result) + "\n" for result in results))
    read = label(*common, "--read", tmp_path / "results.jsonl")
    assert "7 answered" in read.stdout
    assert "2 batch error" in read.stdout
    assert "1 other data" in read.stdout
    assert "7 stored already" in label(*common, "--read", tmp_path / "results.jsonl").stdout
    again = label(*common, "--write", tmp_path / "requests")
    assert again.returncode == 1
    assert "requests-00001.jsonl" in again.stderr
    assert label(*common, "--write", tmp_path / "rest").returncode == 0
    assert len(read_lines(tmp_path / "rest" / "requests-00001.jsonl")) == 2
    (tmp_path / "broken.jsonl").write_text('{"id": 1}\n')
    broken = label(*common, "--read", tmp_path / "broken.jsonl")
    assert "broken.jsonl, line 1" in broken.stderr
