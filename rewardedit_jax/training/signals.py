"""Signals that ask a process to stop after it has saved its work."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Ctrl-C; the end of a job; a closed terminal; what Slurm and others send before the time limit (--signal=USR1@120).
# Windows lacks the last three.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
STOP_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that the first of `STOP_SIGNALS` sets; the same signal again has its usual effect.

    Signals that the process ignores stay ignored: nohup ignores SIGHUP so that a closed terminal stops nothing.
    """
    requested, before = threading.Event(), {}

    def request(number: int, frame: object) -> None:
        requested.set()
        # A run that hangs while it saves can still be killed by a second Ctrl-C.
        signal.signal(number, before[number])

    # Python allows signal handlers in the main thread only; tests train in other threads too.
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            # None: a handler that Python did not install, and could not restore.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.getsignal(number)
                signal.signal(number, request)
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
