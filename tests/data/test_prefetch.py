"""Preparation ahead of time by threads."""

import itertools
import threading

import pytest

from rewardedit_jax.data.prefetch import prefetch_map, prefetched


def test_order_and_end():
    with prefetched(iter(range(7)), lambda x: x * x, depth=2) as items:
        assert list(items) == [0, 1, 4, 9, 16, 25, 36]


def test_never_more_than_depth_ahead():
    made = []
    gone_on = threading.Event()

    def count():
        for i in itertools.count():
            made.append(i)
            if i == 4:
                gone_on.set()
            yield i

    with prefetched(count(), lambda x: x, depth=2) as items:
        assert next(items) == 0
        assert not gone_on.wait(0.3)  # 0 taken, 1 and 2 ready, 3 in hand
        assert made == [0, 1, 2, 3]
        assert next(items) == 1
        assert gone_on.wait(5)


def test_an_error_comes_after_the_items_before_it():
    def broken():
        yield 1
        raise OSError("no such image")

    with prefetched(broken(), lambda x: x, depth=2) as items:
        assert next(items) == 1
        with pytest.raises(OSError, match="no such image"):
            next(items)


def test_thread_ends_with_the_context():
    before = threading.active_count()
    with prefetched(itertools.count(), lambda x: x, depth=2) as items:
        next(items)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_a_pool_keeps_the_order_and_the_errors():
    def invert(number):
        return 1 / number

    first, second, third = prefetch_map(invert, [(1,), (0,), (4,)], ahead=2)
    assert (first.result(), third.result()) == (1, 0.25)
    with pytest.raises(ZeroDivisionError):
        second.result()


def test_a_pool_reads_no_more_than_it_may():
    taken = []

    def arguments():
        for i in range(100):
            taken.append(i)
            yield (i,)

    futures = prefetch_map(lambda i: i, arguments(), ahead=3)
    assert next(futures).result() == 0
    assert taken == [0, 1, 2, 3]
    futures.close()
