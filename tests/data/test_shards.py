"""Shard sets: what is written, what a stopped run leaves, a full disk."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from rewardedit_jax.data.array_records import ArrayRecords
from rewardedit_jax.data.runs import Shard
from rewardedit_jax.data.shards import BadInput, ShardSet, StoredRow, bad_inputs, read_index

PLAN = {"of": "numbers"}


def row(number):
    if number % 5 == 3:
        raise ValueError(f"number {number} is bad")
    return StoredRow(
        f"record {number}".encode() * 20, {"key": str(number), "rating": None if number < 4 else number / 2}
    )


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_records_keep_their_order_without_the_bad_ones(tmp_path):
    shards = ShardSet(tmp_path, "set-train", 11, per_shard=4)
    shards.write(row, PLAN)
    good = [n for n in range(11) if n % 5 != 3]
    files = [shards.data_file(k) for k in range(shards.shards)]
    records = ArrayRecords(files)
    assert [records[i] for i in range(len(records))] == [row(n).data for n in good]
    # The column of the first shard has no values, and so no type of its own.
    index = read_index([shards.index_file(k) for k in range(shards.shards)], ["key", "rating"])
    assert index.to_pylist() == [row(n).index for n in good]
    reports = shards.reports()
    assert [report.records for report in reports] == [3, 4, 2]
    assert list(bad_inputs(reports)) == [BadInput(3, "number 3 is bad"), BadInput(8, "number 8 is bad")]
    assert sum(report.data_bytes for report in reports) == sum(len(row(n).data) for n in good)
    assert shards.plan() == PLAN


def test_a_shard_of_bad_inputs_only_is_empty(tmp_path):
    shards = ShardSet(tmp_path, "set-train", 6, per_shard=3)

    def second_half(number):
        if number < 3:
            raise ValueError("bad")
        return row(5)

    shards.write(second_half, PLAN)
    files = [shards.data_file(k) for k in range(2)]
    assert len(ArrayRecords(files)) == 3
    assert read_index([shards.index_file(k) for k in range(2)], ["key"])["key"].to_pylist() == ["5"] * 3


def test_what_is_complete_is_not_written_again(tmp_path):
    shards = ShardSet(tmp_path, "set-train", 9, per_shard=3)
    shards.write(row, PLAN)
    before, read = contents(tmp_path), []
    shards.report_file(1).unlink()  # as after a kill before the report
    shards.data_file(1).write_bytes(b"cut")
    shards.write(lambda number: read.append(number) or row(number), PLAN)
    assert sorted(read) == [3, 4, 5]
    assert contents(tmp_path) == before


def test_an_error_that_is_no_bad_input_stops_and_keeps_whole_shards(tmp_path):
    shards = ShardSet(tmp_path, "set-train", 9, per_shard=3)

    def breaks(number):
        if number == 5:
            raise RuntimeError("a bug")
        return row(number)

    with pytest.raises(RuntimeError, match="a bug"):
        shards.write(breaks, PLAN)
    assert shards.missing() == [1, 2]
    assert not shards.data_file(1).exists()
    with pytest.raises(ValueError, match="lacks 2 of 3 shards of set-train: 1, 2"):
        shards.reports()


def test_machines_share_the_shards(tmp_path):
    shards = ShardSet(tmp_path, "set-train", 10, per_shard=2)
    shards.write(row, PLAN, Shard(2, 2))
    assert shards.missing() == [0, 2, 4]
    assert len(shards.reports(Shard(2, 2))) == 2
    with pytest.raises(ValueError, match="lacks 3 of 5"):
        shards.reports(Shard(1, 2))


@pytest.mark.parametrize(
    ("count", "per_shard", "plan"),
    [(10, 3, PLAN), (9, 2, PLAN), (9, 3, {"of": "letters"}), (9, 3, {**PLAN, "revision": "abc"}), (9, 3, {})],
)
def test_another_plan_is_refused(tmp_path, count, per_shard, plan):
    ShardSet(tmp_path, "set-train", 9, per_shard=3).write(row, PLAN)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"was begun with other settings \(.* there, .* now\): give another folder"):
        ShardSet(tmp_path, "set-train", count, per_shard).write(row, plan)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("count", "per_shard"), [(0, 3), (3, 0)])
def test_numbers_are_positive(tmp_path, count, per_shard):
    with pytest.raises(ValueError, match="at least one"):
        ShardSet(tmp_path, "set-train", count, per_shard)


FULL = """
import resource, sys
from pathlib import Path
from rewardedit_jax.data.shards import ShardSet, StoredRow
limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
# The third shard has larger records than the first two.
row = lambda number: StoredRow(bytes([number]) * (1000 if number < 6 else 200_000), {"key": str(number)})
try:
    ShardSet(Path(sys.argv[1]), "set-train", 9, 3).write(row, {"of": "numbers"})
except OSError as error:
    sys.exit(f"{type(error).__name__} {error.errno}: {error}")
"""


def test_a_full_disk_stops_clearly_and_the_run_goes_on(tmp_path):
    def run(folder, limit):
        code = [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path / folder), str(limit)]
        return subprocess.run(code, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})

    full = run("out", 300_000)
    assert full.returncode == 1
    assert "OSError 27: [Errno 27] File too large" in full.stderr
    assert "Traceback" not in full.stderr
    shards = ShardSet(tmp_path / "out", "set-train", 9, 3)
    assert shards.missing() == [2]
    assert not [file.name for file in (tmp_path / "out").iterdir() if file.name.endswith(".part")]
    assert run("out", 0).returncode == run("whole", 0).returncode == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert json.loads(shards.report_file(2).read_text())["records"] == 3
