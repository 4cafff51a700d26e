"""Tests `training/processes.py`; tests/training/test_distributed.py runs two processes that differ."""

import json

import pytest
from toy_task import toy_config

from rewardedit_jax.training import processes
from rewardedit_jax.training.processes import check_processes_agree


@pytest.fixture
def three(monkeypatch):
    """Three processes; the second has the facts of the others with the changes that are set here."""
    changes = {}
    monkeypatch.setattr(processes.jax, "process_count", lambda: 3)
    monkeypatch.setattr(processes, "_gather", lambda text: [text, json.dumps(json.loads(text) | changes), text])
    return changes


def test_processes_that_agree_pass(three):
    check_processes_agree(toy_config())


@pytest.mark.parametrize("name", ["jax", "orbax-checkpoint", "source code of rewardedit_jax", "config.optimizer.eps"])
def test_what_differs_is_named_with_both_values(three, name):
    three[name] = "0.9"
    with pytest.raises(ValueError, match=rf"3 processes .*differ.*\n  {name}: .* on process 0, 2; 0\.9 on process 1$"):
        check_processes_agree(toy_config())


def test_one_process_has_nothing_to_agree_with(monkeypatch):
    monkeypatch.setattr(processes, "_gather", None)
    check_processes_agree(toy_config())
