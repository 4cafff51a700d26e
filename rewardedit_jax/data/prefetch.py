"""Preparation ahead of time by threads, while the device computes.

`prefetched` advances an iterator in one thread: for batches, whose source does the work. `prefetch_map` applies a
function to independent items in a pool of threads: for lists of images, where single items may fail.
"""

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Prepared = TypeVar("Prepared")

_END = object()


@contextlib.contextmanager
def prefetched(items: Iterator[Any], prepare: Callable[[Any], Any], depth: int) -> Iterator[Iterator[Any]]:
    """An iterator over `prepare(item)`, up to `depth` items ahead. It raises what fails in the thread."""
    ready: queue.Queue = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def offer(item: Any, error: BaseException | None) -> None:
        placed = False
        # With a timeout, because nobody empties the queue any more once the context is closed.
        while not placed and not closed.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((item, error), timeout=0.1)
                placed = True

    def produce() -> None:
        try:
            for item in items:
                if closed.is_set():
                    return
                offer(prepare(item), None)
            offer(_END, None)
        except Exception as error:  # of any type: the consumer raises it
            offer(None, error)

    def consume() -> Iterator[Any]:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item

    # One thread only: the iterator is not thread-safe, and its order must be kept.
    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        yield consume()
    finally:
        closed.set()
        thread.join()


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
