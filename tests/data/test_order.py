"""Bad records while they are read: an error that names them, or a replacement that is the same in every run."""

import itertools
import logging
import threading
from collections import Counter

import numpy as np
import pytest

from rewardedit_jax.data.order import BadRecordLog, first_readable, ordered_batches
from rewardedit_jax.data.records import BadRecords


class Numbers:
    """Records that are their numbers."""

    def __init__(self, size, bad=()):
        self.size, self.bad = size, bad

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index in self.bad:
            raise ValueError(f"{index}.png is broken")
        return index


def line(records, steps, prepare=lambda record, place: record, **settings):
    settings = {"batch_size": 4, "seed": 5, "skip_bad": True, **settings}
    return list(itertools.islice(ordered_batches(records, prepare, list, **settings), steps))


BAD = range(10, 40)


class TestReplacements:
    @pytest.mark.parametrize("threads", [0, 3])
    @pytest.mark.parametrize("start", [1, 7, 23])
    def test_a_resumed_run_sees_the_same(self, start, threads):
        whole = line(Numbers(60, BAD), 26)
        assert line(Numbers(60, BAD), 26 - start, start=start, threads=threads) == whole[start:]

    @pytest.mark.parametrize("hosts", [2, 4])
    def test_the_hosts_together_see_the_same(self, hosts):
        parts = [line(Numbers(60, BAD), 20, host=host, hosts=hosts) for host in range(hosts)]
        assert [list(itertools.chain(*part)) for part in zip(*parts, strict=True)] == line(Numbers(60, BAD), 20)

    def test_good_records_stay_where_they_are(self):
        whole, replaced = (np.concatenate(line(Numbers(60, bad), 30)) for bad in ((), BAD))
        good = ~np.isin(whole, BAD)
        assert 50 < good.sum() < 70
        np.testing.assert_array_equal(replaced[good], whole[good])
        assert not np.isin(replaced, BAD).any()

    def test_neighbours_are_not_preferred(self):
        """Ten epochs, 300 bad records among 30 good ones: each good one comes about 20 times."""
        counts = Counter(itertools.chain(*line(Numbers(60, BAD), 150)))
        assert counts.keys() == set(range(60)) - set(BAD)
        assert max(counts.values()) < 40

    def test_another_seed_draws_others(self):
        assert line(Numbers(60, BAD), 30, shuffle=False) != line(Numbers(60, BAD), 30, shuffle=False, seed=6)

    def test_what_cannot_be_prepared_is_replaced_too(self):
        def prepare(record, place):
            if record == 3:
                raise ValueError("too narrow")
            return record

        assert 3 not in set(itertools.chain(*line(Numbers(8), 10, prepare)))

    def test_other_errors_are_not_about_records(self):
        def prepare(record, place):
            raise TypeError("a fault of the program")

        with pytest.raises(TypeError):
            line(Numbers(8), 1, prepare)

    def test_too_many_bad_records_are_an_error(self):
        with pytest.raises(BadRecords, match=r"32 records.*record \d: \d\.png is broken"):
            line(Numbers(9, range(9)), 1)


class TestErrors:
    def test_a_bad_record_is_named_with_the_remedy(self):
        with pytest.raises(BadRecords, match=r"record 3: 3\.png is broken\n.*data\.skip_bad=True"):
            line(Numbers(8, {3}), 2, skip_bad=False)

    def test_records_may_have_other_names(self):
        with pytest.raises(BadRecords, match=r"pair no3: 3\.png"):
            line(Numbers(8, {3}), 2, skip_bad=False, name="pair no{}".format)


class TestLog:
    @pytest.mark.parametrize("threads", [0, 3])
    def test_each_bad_record_is_logged_once(self, caplog, threads):
        with caplog.at_level(logging.WARNING):
            line(Numbers(9, {2, 4}), 9, threads=threads)  # four epochs
        assert caplog.text.count("record 2 replaced") == caplog.text.count("record 4 replaced") == 1
        assert "2 bad records so far" in caplog.text
        assert "4.png is broken" in caplog.text

    def test_records_with_one_name_are_one(self, caplog):
        with caplog.at_level(logging.WARNING):
            line(Numbers(9, {2, 4}), 9, name=lambda number: f"pair {number // 3}")
        assert caplog.text.count("replaced by") == 2

    def test_threads_count_together(self, caplog):
        log = BadRecordLog()
        note = lambda k: [log.note(f"record {i}", ValueError("bad")) for i in range(k, k + 20)]  # noqa: E731
        threads = [threading.Thread(target=note, args=(k,)) for k in range(0, 100, 10)]
        with caplog.at_level(logging.WARNING):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        counts = sorted(int(record.getMessage().split("(")[1].split()[0]) for record in caplog.records)
        assert counts == list(range(1, 111))


class TestFirstReadable:
    def test_the_first_that_can_be_read(self):
        assert first_readable(Numbers(3), skip_bad=False) == 0
        assert first_readable(Numbers(3, {0, 1}), skip_bad=True) == 2

    def test_a_bad_one_is_an_error_unless_left_out(self):
        with pytest.raises(BadRecords, match=r"record 0: 0\.png.*\n.*skip_bad=True"):
            first_readable(Numbers(3, {0}), skip_bad=False)
        with pytest.raises(BadRecords, match="3 records"):
            first_readable(Numbers(3, range(3)), skip_bad=True)
