"""Signals that ask a process to stop after it has saved its work."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Ctrl-C; the end of a job; a closed terminal; what Slurm and others send before the time limit (--signal=USR1@120).
# Windows lacks the last three.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
STOP_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
# The exit status of a run that stopped when asked to: EX_TEMPFAIL of BSD's sysexits.h, "try again later".
STOPPED = 75


@contextmanager
def stop_requests(processes: int = 1) -> Iterator[threading.Event]:
    """An event that the first of `STOP_SIGNALS` sets; the same signal again has its usual effect.

    Signals that the process ignores stay ignored: nohup ignores SIGHUP so that a closed terminal stops nothing.

    Args:
      processes: of the run. Several of them must stop at the same step, which the jax runtime arranges when one of them
        gets SIGTERM: the other signals are turned into this one, and the event is never set.
    """
    requested, before = threading.Event(), {}
    handled = STOP_SIGNALS if processes == 1 else tuple(n for n in STOP_SIGNALS if n != signal.SIGTERM)

    def request(number: int, frame: object) -> None:
        if processes == 1:
            requested.set()
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        # A run that hangs while it saves can still be killed by a second Ctrl-C.
        signal.signal(number, before[number])

    # Python allows signal handlers in the main thread only; tests train in other threads too.
    if threading.current_thread() is threading.main_thread():
        for number in handled:
            # None: a handler that Python did not install, and could not restore.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.getsignal(number)
                signal.signal(number, request)
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
