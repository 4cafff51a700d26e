"""Tests `training/signals.py`."""

import os
import signal
import threading

import pytest

from rewardedit_jax.training.signals import STOP_SIGNALS, stop_requests


@pytest.fixture
def restored():
    """Handlers are those of before, whatever a test does."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_of_terminals_and_of_slurm_are_among_them():
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2} == set(STOP_SIGNALS)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_a_request_and_then_has_its_usual_effect(restored, number):
    calls = []
    signal.signal(number, lambda number, frame: calls.append(number))
    with stop_requests() as requested:
        assert not requested.is_set()
        os.kill(os.getpid(), number)
        assert requested.is_set()
        assert calls == []
        os.kill(os.getpid(), number)
        assert calls == [number]
    os.kill(os.getpid(), number)
    assert calls == [number, number]


def test_several_processes_get_sigterm_for_all_other_signals(restored):
    calls = []
    signal.signal(signal.SIGTERM, lambda number, frame: calls.append(number))  # as the jax runtime
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    with stop_requests(processes=2) as requested:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert calls == [signal.SIGTERM]
        assert not requested.is_set()


def test_what_nohup_ignores_stays_ignored(restored):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_requests() as requested:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not requested.is_set()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_outside_the_main_thread_nothing_is_installed(restored):
    def work():
        with stop_requests():
            found.append(signal.getsignal(signal.SIGTERM))

    found = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [restored[signal.SIGTERM]]
