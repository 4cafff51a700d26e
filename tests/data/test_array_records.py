"""Random access to records of several files."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from rewardedit_jax.data.array_records import ArrayRecords

SIZES = (3, 0, 5)  # records by file: a shard whose inputs were all bad is empty


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, number = tmp_path_factory.mktemp("records"), 0
    files = [folder / f"{i}.array_record" for i in range(len(SIZES))]
    for file, size in zip(files, SIZES, strict=True):
        writer = ArrayRecordWriter(str(file), "group_size:1,uncompressed")
        for _ in range(size):
            writer.write(b"%d" % number * 1000)
            number += 1
        writer.close()
    return files


def test_records_of_all_files_in_any_order(files):
    records = ArrayRecords(files)
    assert len(records) == 8
    assert [records[np.int64(i)] for i in (7, 0, 3, 2, 3)] == [b"%d" % i * 1000 for i in (7, 0, 3, 2, 3)]
    assert list(records) == [b"%d" % i * 1000 for i in range(8)]


def test_a_number_that_no_record_has(files):
    with pytest.raises(IndexError, match="record 8 of 8"):
        ArrayRecords(files)[8]


def test_threads_share_a_reader(files):
    records, numbers = ArrayRecords(files), [i % 8 for i in range(800)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(records.__getitem__, numbers)) == [b"%d" % i * 1000 for i in numbers]


def test_another_process_opens_the_files_itself(files):
    assert list(pickle.loads(pickle.dumps(ArrayRecords(files)))) == list(ArrayRecords(files))
