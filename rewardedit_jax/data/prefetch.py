"""Preparation ahead of time by threads, while the device computes.

`prefetched` advances an iterator in one thread: for batches, whose source does the work. `prefetch_map` applies a
function to independent items in a pool of threads: for lists of images, where single items may fail.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Prepared = TypeVar("Prepared")

_END = object()


@contextlib.contextmanager
def prefetched(items: Iterator[Any], prepare: Callable[[Any], Any], depth: int) -> Iterator[Iterator[Any]]:
    """An iterator over `prepare(item)`, `depth` items ready and one in work. It raises the errors of the thread."""

    def take() -> Any:
        item = next(items, _END)
        return item if item is _END else prepare(item)

    # One thread only: the iterator is not thread-safe, and its order must be kept.
    pool = ThreadPoolExecutor(1, "prefetch")
    waiting = deque(pool.submit(take) for _ in range(depth + 1))

    def consume() -> Iterator[Any]:
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(take))
            yield item

    try:
        yield consume()
    finally:
        pool.shutdown(cancel_futures=True)


def prefetch_map(
    prepare: Callable[..., Prepared], arguments: Iterable[Sequence[Any]], ahead: int
) -> Iterator[Future[Prepared]]:
    """The futures of `prepare(*args)` for each of `arguments`, in their order.

    A future raises what `prepare` raised, so one bad item does not stop the others.

    Args:
      ahead: items to prepare before they are needed. All of them are in memory.
    """
    waiting = deque[Future[Prepared]]()
    # Threads suffice: Pillow releases the global interpreter lock while it decodes and resizes.
    pool = ThreadPoolExecutor()
    try:
        for args in arguments:
            waiting.append(pool.submit(prepare, *args))
            if len(waiting) > ahead:
                yield waiting.popleft()
        yield from waiting
    finally:
        # Also when the consumer stops early: pending items are not prepared.
        pool.shutdown(cancel_futures=True)
