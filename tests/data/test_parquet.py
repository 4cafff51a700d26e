"""Row groups: several threads, faults, copies."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pyarrow
import pytest
from pyarrow import parquet

from rewardedit_jax.data.parquet import ParquetRows
from rewardedit_jax.data.records import BadRecords


@pytest.fixture
def rows(tmp_path):
    """Four groups of three rows."""
    table = pyarrow.table({"n": list(range(12)), "other": ["x"] * 12})
    parquet.write_table(table, tmp_path / "0.parquet", row_group_size=3)
    return ParquetRows(tmp_path, ["n"], "expected: a number")


def count_decoded(rows, monkeypatch):
    decoded, original = [], rows._decode
    monkeypatch.setattr(rows, "_decode", lambda *group: decoded.append(group[1]) or original(*group))
    return decoded


def test_two_groups_are_kept(rows, monkeypatch):
    decoded = count_decoded(rows, monkeypatch)
    assert [rows[i]["n"] for i in (2, 3, 2, 3, 0, 5)] == [2, 3, 2, 3, 0, 5]
    assert decoded == [0, 1]
    assert (rows[6]["n"], rows[3]["n"], rows[0]["n"]) == (6, 3, 0)
    assert decoded == [0, 1, 2, 0]


def test_threads_share_the_decoding_of_a_group(rows, monkeypatch):
    decoded, start = count_decoded(rows, monkeypatch), Barrier(6)

    def read(index):
        start.wait()
        return rows[index]["n"]

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(read, range(6))) == list(range(6))
    assert sorted(decoded) == [0, 1]


def test_a_group_that_could_not_be_read_is_tried_again(rows, monkeypatch):
    def fail(*_, **__):
        raise OSError("no disk")

    with monkeypatch.context() as broken:
        broken.setattr(parquet.ParquetFile, "read_row_group", fail)
        for _ in range(2):
            with pytest.raises(BadRecords, match=r"0\.parquet: row group 1 .*no disk"):
                rows[4]
    assert rows[4]["n"] == 4


def test_a_copy_for_another_process_has_no_groups(rows):
    rows[0]
    copy = pickle.loads(pickle.dumps(rows))
    assert copy._cached == {}
    assert copy[11]["n"] == 11
