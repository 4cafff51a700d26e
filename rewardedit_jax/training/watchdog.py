"""Reports a training step that hangs: the part of it, and where every thread of the program is."""

import statistics
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from absl import logging

_MEDIANS = 20  # a part that takes as many median steps has stalled
_LEAST = 60.0  # seconds; shorter pauses, as of a shared disk, are no news
_AT_FIRST = 600.0  # seconds, as long as no median is known
_KNOWN = 3  # steps that a median needs
_LOOK_EVERY = 5.0  # seconds at most


class Watchdog:
    """Logs a warning when a part of a step takes much longer than steps do, and again after twice the time.

    It stops nothing: only a person can tell a slow disk from a dead one.

    Args:
      seconds: after which a part has stalled; None: 20 medians of the last 100 steps, at least a minute.
    """

    def __init__(self, seconds: float | None):
        self._seconds = seconds
        self._steps: deque[float] = deque(maxlen=100)  # seconds
        self._last: float | None = None  # when the last step was done
        self._current: tuple[str, float] | None = None  # the part that runs, and since when
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed.set()
        self._thread.join()

    @contextmanager
    def watch(self, part: str) -> Iterator[None]:
        """Names what the main thread waits for in this block."""
        self._current = part, time.monotonic()
        try:
            yield
        finally:
            self._current = None

    def step_done(self) -> None:
        """Call once per step: the median of the times between the calls is what a step usually takes."""
        now = time.monotonic()
        if self._last is not None:
            self._steps.append(now - self._last)
        self._last = now

    def _limit(self) -> float:
        if self._seconds is not None:
            return self._seconds
        if len(self._steps) < _KNOWN:
            return _AT_FIRST
        return max(_LEAST, _MEDIANS * statistics.median(self._steps))

    def _look(self) -> None:
        seen, limit = None, 0.0
        while not self._closed.wait(min(_LOOK_EVERY, self._limit() / 4)):
            current = self._current
            if current is not seen:
                seen, limit = current, self._limit()
            if current and (waited := time.monotonic() - current[1]) > limit:
                self._report(current[0], waited)
                limit *= 2

    def _report(self, part: str, waited: float) -> None:
        usual = f"{statistics.median(self._steps):.3g} s" if self._steps else "unknown"
        message = "no progress for %.3g s: the run waits for the %s (median step: %s). It goes on waiting.\n%s"
        logging.warning(message, waited, part, usual, _stacks())


def _stacks() -> str:
    """Where every thread of Python is, except the one that asks."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    others = {number: frame for number, frame in sys._current_frames().items() if number != threading.get_ident()}
    stacks = (
        f"thread {names.get(number, number)}:\n{''.join(traceback.format_stack(f))}" for number, f in others.items()
    )
    return "\n".join(stacks)
