"""Batches made ahead of time by one thread, while the device computes."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_END = object()


@contextmanager
def prefetched(
    items: Iterator[Any], prepare: Callable[[Any], Any], depth: int = 2
) -> Iterator[Iterator[Any]]:
    """An iterator over `prepare(item)`, at most `depth` ahead. What fails in the thread is raised where it is awaited."""
    ready: queue.Queue = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def offer(item: Any, error: BaseException | None) -> None:
        while not closed.is_set():
            try:
                return ready.put((item, error), timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for item in items:
                if closed.is_set():
                    return
                offer(prepare(item), None)
            offer(_END, None)
        except Exception as error:  # whatever it is, it belongs to the consumer
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
