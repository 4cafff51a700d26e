"""Prefetching: batches are made by a thread while the device computes."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

_END = object()


@contextlib.contextmanager
def prefetched(items: Iterator[Any], prepare: Callable[[Any], Any], depth: int) -> Iterator[Iterator[Any]]:
    """An iterator over `prepare(item)`, computed up to `depth` items ahead. It raises what the thread raises."""
    ready: queue.Queue = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def offer(item: Any, error: BaseException | None) -> None:
        placed = False
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
        except Exception as error:  # of any type: the consumer handles it
            offer(None, error)

    def consume() -> Iterator[Any]:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        yield consume()
    finally:
        closed.set()
        thread.join()
