"""Tests `training/watchdog.py`: which part of a training is named when it hangs, and when."""

import time

import jax
import jax.numpy as jnp
from toy_task import ToyTask, toy_config

from rewardedit_jax.training import watchdog
from rewardedit_jax.training.loop import train
from rewardedit_jax.training.watchdog import Watchdog


def test_a_part_that_hangs_is_reported_again_after_twice_the_time(logged):
    with Watchdog(0.1) as dog:
        for _ in range(20):
            with dog.watch("input"):
                time.sleep(0.01)
        assert logged == []
        with dog.watch("checkpoint"):
            time.sleep(0.5)
    assert 2 <= len(logged) <= 4  # after 0.1 s, 0.2 s, and as often as a busy machine oversleeps
    assert all("waits for the checkpoint" in line for line in logged)
    assert "time.sleep(0.5)" in logged[0]  # the stack of this thread
    assert "thread watchdog" not in logged[0]


def test_the_time_adapts_to_the_median_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: now[0])
    dog = Watchdog(None)
    assert dog._limit() == 600
    for seconds in (0.0, 9.0, 9.0, 1000.0, 9.0):
        now[0] += seconds
        dog.step_done()
    assert dog._limit() == 180
    for _ in range(100):
        now[0] += 0.1
        dog.step_done()
    assert dog._limit() == 60


class Slow(ToyTask):
    """The step of the fifth batch takes long, and the tenth batch comes late: later than others are read ahead."""

    def batches(self, start):
        for n, batch in enumerate(super().batches(start), start):
            if n == 9:
                time.sleep(1.2)
            yield batch | {"slow": jnp.full(8, n == 4)}

    def loss(self, params, batch, rng):
        losses, metrics = super().loss(params, batch, rng)
        wait = jax.pure_callback(self.wait, jax.ShapeDtypeStruct((), jnp.float32), batch["slow"][0])
        return losses + wait, metrics

    def wait(self, slow):
        time.sleep(1.2 if slow else 0)
        return jnp.zeros((), jnp.float32)


def test_a_training_names_the_part_that_hangs(tmp_path, logged, monkeypatch):
    def save(self, state, inventory):
        time.sleep(1.2)

    monkeypatch.setattr("rewardedit_jax.training.loop.Checkpoints.save", save)
    monkeypatch.setattr("rewardedit_jax.training.loop.Checkpoints.unsaved", lambda self, step: None)
    config = toy_config(steps=12, stall_seconds=0.7)
    train(Slow(config), config, tmp_path)
    parts = [
        line.partition("waits for the ")[2].partition(" ")[0].strip(":,") for line in logged if "waits for" in line
    ]
    assert parts == ["device", "input", "checkpoint"]
    assert "in batches" in logged[1]
