"""Edits read by threads, in their order, while the device scores those before."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from rewardedit_jax.scoring.packing import ScorerItem


def read_ahead(
    prepare: Callable[..., ScorerItem], edits: Iterable[Sequence[Any]], ahead: int
) -> Iterator[Future[ScorerItem]]:
    """`prepare(*edit)` of each edit, whose result is there or comes; asking for it raises what `prepare` raised.

    Args:
      ahead: edits to read before they are needed: a megabyte each.
    """
    waiting = deque[Future[ScorerItem]]()
    pool = ThreadPoolExecutor()
    try:
        for edit in edits:
            waiting.append(pool.submit(prepare, *edit))
            if len(waiting) > ahead:
                yield waiting.popleft()
        yield from waiting
    finally:
        pool.shutdown(cancel_futures=True)
