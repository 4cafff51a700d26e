"""Random access to the records of array_record files."""

import os
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from operator import index
from pathlib import Path
from threading import Lock
from typing import SupportsIndex

from array_record.python.array_record_module import ArrayRecordReader

# A single record is wanted at a time: what would be read ahead is not the next one.
_ONE_RECORD = "readahead_buffer_size:0,max_parallelism:0"
_OPENED_AT_ONCE = 16  # files: shards may lie on a slow network disk


class ArrayRecords(Sequence[bytes]):
    """The records of some files as one sequence. Threads may read at the same time.

    array_record's own `ArrayRecordDataSource` hands each record through a thread pool, which takes a fifth longer.
    """

    def __init__(self, files: Sequence[Path]):
        """Opens the files and reads the positions of their records."""
        self._files = files
        with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
            self._readers = list(pool.map(_open, files))
        self._locks = [Lock() for _ in self._readers]
        self._ends = list(accumulate(reader.num_records() for reader in self._readers))
        self._count = self._ends[-1] if self._ends else 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: SupportsIndex) -> bytes:
        number = index(number)  # array_record takes no integers of NumPy
        if not 0 <= number < self._count:
            raise IndexError(f"record {number} of {self._count}")
        file = bisect_right(self._ends, number)
        first = self._ends[file - 1] if file else 0
        reader = self._readers[file]
        with self._locks[file]:  # of a reader, which has one position
            reader.seek(number - first)
            return reader.read()

    def __reduce__(self):
        return ArrayRecords, (self._files,)  # readers cannot be pickled; another process opens its own


def _open(file: Path) -> ArrayRecordReader:
    return ArrayRecordReader(os.fspath(file), options=_ONE_RECORD)
