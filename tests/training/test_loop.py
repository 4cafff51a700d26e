"""Tests `training/loop.py` on the toy task: learning, resuming, stopping, evaluating."""

import itertools
import os
import re
import shutil
import signal

import jax
import numpy as np
import pytest
from toy_task import ToyTask, records, toy_config

from rewardedit_jax.training.compiled_step import CompiledStep
from rewardedit_jax.training.loop import Interrupted, NonFiniteLoss, _Run, train

CONFIG = {"checkpoint_every": 3, "accumulate": 2}


def toy_train(workdir, task=None, resume=False, evaluator=None, **changes):
    config = toy_config(**CONFIG | changes)
    task = task or ToyTask(config, noise=0.1, evaluator=evaluator)
    return train(task, config, workdir, resume=resume)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """(working directory, state) of six steps without a stop."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    return workdir, toy_train(workdir)


@pytest.fixture
def half(straight, tmp_path):
    """A copy of that run as it was after three steps, had it been killed while writing about the fifth."""
    workdir = tmp_path / "half"
    shutil.copytree(straight[0], workdir, ignore=shutil.ignore_patterns("6", "model"))
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (workdir / "metrics.jsonl").write_text("".join(lines[:4]) + lines[4][:10])
    return workdir


def test_it_learns(tmp_path):
    toy_train(tmp_path, steps=60, batch_size=64, checkpoint_every=0)
    losses = [record["loss"] for record in records(tmp_path)]
    assert losses[-1] < 0.4 * losses[0]


def test_three_steps_and_three_more_are_six_steps(straight, tmp_path):
    workdir = tmp_path / "run"
    toy_train(workdir, steps=3)
    state = toy_train(workdir, steps=6, resume=True)
    assert_equal(state, straight[1])  # every bit of parameters, moments, average and step
    assert records(workdir) == records(straight[0])


def test_a_killed_run_goes_on_and_tells_each_step_once(half, straight):
    assert_equal(toy_train(half, resume=True), straight[1])
    assert [record["step"] for record in records(half)] == [1, 2, 3, 4, 5, 6]
    assert records(half) == records(straight[0])


def test_resuming_a_finished_run_exports_it_again(straight, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(straight[0], workdir, ignore=shutil.ignore_patterns("model"))
    assert_equal(toy_train(workdir, resume=True), straight[1])
    assert (workdir / "model" / "params.npz").exists()
    assert records(workdir) == records(straight[0])


def test_exports_the_average_with_the_frozen_parameters_untouched(straight):
    workdir, state = straight
    exported = np.load(workdir / "model" / "params.npz")
    initial = ToyTask(toy_config()).init(jax.random.key(3))
    np.testing.assert_array_equal(exported["['features']['kernel']"], initial["features"]["kernel"])
    np.testing.assert_array_equal(exported["['head']['out']['kernel']"], state.ema["head"]["out"]["kernel"])
    assert not np.array_equal(state.ema["head"]["out"]["kernel"], state.params["head"]["out"]["kernel"])
    assert not np.array_equal(state.params["head"]["out"]["kernel"], initial["head"]["out"]["kernel"])
    assert "features" not in state.params


def test_evaluators_see_the_averaged_complete_parameters(tmp_path):
    seen = {}

    def evaluator(params, step):
        seen[step] = jax.tree.map(np.array, params)
        return {"score": step / 2, "picture": np.zeros((2, 2, 3), np.uint8)}

    state = toy_train(tmp_path, steps=5, log_every=5, evaluate_every=2, evaluator=evaluator)
    assert sorted(seen) == [2, 4, 5]
    assert_equal({"head": seen[5]["head"]}, state.ema)
    assert "features" in seen[5]
    # An evaluated step is a logged step; the evaluation has a record of its own behind that of the step.
    of_steps, of_evaluations = records(tmp_path)[::2], records(tmp_path)[1::2]
    assert [(r["step"], "loss" in r) for r in of_steps] == [(2, True), (4, True), (5, True)]
    assert of_evaluations == [{"step": n, "val/score": n / 2} for n in (2, 4, 5)]
    assert (tmp_path / "images" / "val" / "picture_0000004.png").exists()


def test_without_average_the_parameters_are_evaluated_and_exported(tmp_path):
    seen = []

    def evaluator(params, step):
        seen.append(jax.tree.map(np.array, params))
        return {}

    state = toy_train(tmp_path, steps=2, evaluate_every=2, evaluator=evaluator, **{"optimizer.ema_decay": None})
    assert state.ema is None
    assert_equal({"head": seen[-1]["head"]}, state.params)
    exported = np.load(tmp_path / "model" / "params.npz")
    np.testing.assert_array_equal(exported["['head']['out']['kernel']"], state.params["head"]["out"]["kernel"])


def test_a_broken_loss_stops_the_run_and_leaves_the_last_good_checkpoint(tmp_path):
    config = toy_config(**CONFIG, steps=9)
    with pytest.raises(NonFiniteLoss, match=r"step 6: loss nan.* checkpoint is of step 3; .*--resume.*learning_rate"):
        train(ToyTask(config, nan_at=5), config, tmp_path)  # batch 5 is what step 6 sees, which would be saved
    assert [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()] == ["3"]
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3, 4, 5]
    assert not (tmp_path / "model").exists()
    state = toy_train(tmp_path, steps=9, resume=True)  # the fault is gone: it goes on from the good one
    assert int(state.step) == 9


def test_a_loss_that_breaks_between_checkpoints_is_seen_one_step_later(tmp_path):
    config = toy_config(**CONFIG | {"checkpoint_every": 0, "log_every": 4}, steps=9)
    with pytest.raises(NonFiniteLoss, match=r"step 2: .*no checkpoint yet; start again"):
        train(ToyTask(config, nan_at=1), config, tmp_path)


def test_parameters_that_break_are_neither_saved_nor_exported(tmp_path):
    told = r"step 1: loss 1.*, parameter norm inf, .* is head/hidden/bias\. Nothing broken was saved: .*no checkpoint"
    with pytest.raises(NonFiniteLoss, match=told):
        toy_train(tmp_path, steps=1, **{"optimizer.learning_rate": 1e30})
    assert list((tmp_path / "checkpoints").iterdir()) == []
    assert not (tmp_path / "model").exists()


def test_what_is_not_finite_is_named(tmp_path):
    config = toy_config(steps=3)
    told = r"step 2: loss nan, .*, error nan, .* gradient .* is head/hidden/bias, .* parameter .* is head/hidden/bias\."
    with pytest.raises(NonFiniteLoss, match=told):
        train(ToyTask(config, nan_at=1), config, tmp_path)


def test_skipped_steps_are_counted_across_a_stop(tmp_path):
    changes = {"nonfinite": "skip", "log_every": 2, "checkpoint_every": 0}
    states = {}
    for name, stops in (("whole", [6]), ("cut", [3, 6])):
        for steps in stops:
            config = toy_config(**changes, steps=steps)
            states[name] = train(ToyTask(config, nan_at=2), config, tmp_path / name, resume=steps > stops[0])
    assert_equal(states["cut"], states["whole"])
    skipped = [(record["step"], record["skipped_steps"]) for record in records(tmp_path / "whole")]
    assert skipped == [(2, 0), (4, 1), (6, 1)]
    assert int(states["whole"].step) == 6


def test_a_run_that_skips_every_step_stops(tmp_path, monkeypatch):
    monkeypatch.setattr("rewardedit_jax.training.finite._MAX_SKIPPED", 3)
    config = toy_config(nonfinite="skip", steps=20)
    task = ToyTask(config)
    task.batches = lambda start: itertools.repeat({"x": np.full((8, 4), np.nan, np.float32), "y": np.ones((8, 4))})
    with pytest.raises(NonFiniteLoss, match=r"step 3: .*3 steps in a row were skipped"):
        train(task, config, tmp_path)


def test_a_state_that_is_not_finite_is_not_saved(tmp_path, monkeypatch):
    broken = "ema/head/out/bias"
    monkeypatch.setattr("rewardedit_jax.training.loop.take_inventory", lambda s: ({}, [broken] if s.step == 6 else []))
    with pytest.raises(NonFiniteLoss, match=rf"step 6: NaN or infinity in {broken}\..* checkpoint is of step 3"):
        toy_train(tmp_path)
    assert not (tmp_path / "checkpoints" / "6").exists()
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_died_before_its_first_checkpoint_starts_again(straight, tmp_path, resume):
    class Unreadable(ToyTask):
        def batches(self, start, split="train"):
            yield next(super().batches(start))
            raise ValueError("truncated PNG")

    with pytest.raises(ValueError, match="truncated PNG"):
        toy_train(tmp_path, task=Unreadable(toy_config(**CONFIG), noise=0.1))
    assert_equal(toy_train(tmp_path, resume=resume), straight[1])
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert len((tmp_path / "metrics.jsonl.old1").read_text().splitlines()) < 2


def test_with_a_damaged_checkpoint_and_damaged_records_it_goes_on(straight, tmp_path):
    workdir = shutil.copytree(straight[0], tmp_path / "run")
    (workdir / "checkpoints" / "6" / "state" / "manifest.ocdbt").write_bytes(b"")
    (workdir / "config.json").write_bytes(b"")
    lines = (workdir / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (workdir / "metrics.jsonl").write_bytes(b"".join([*lines[:2], bytes(20) + b"\n", *lines[2:]]))
    assert_equal(toy_train(workdir, resume=True), straight[1])
    assert records(workdir) == records(straight[0])
    for kept in ("checkpoints/6.damaged1", "config.json.damaged1", "metrics.jsonl.damaged1"):
        assert (workdir / kept).exists()


def test_compilation_is_announced_once(tmp_path, capsys):
    toy_train(tmp_path, steps=3)
    first, second, *steps = capsys.readouterr().out.splitlines()
    assert first == "compiling the training step"
    assert re.fullmatch(
        r"compiled in \d+ s; a step needs 0\.\d\d GiB per device, 0\.\d\d GiB of them temporary", second
    )
    assert [line.split()[1] for line in steps] == ["1/3", "2/3", "3/3"]


@pytest.fixture
def not_ignored(number):
    """The signal has its usual effect, also where a shell or nohup started the tests and lets them ignore it."""
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, usual)
    yield
    signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_told_to_stop_it_finishes_the_step_and_saves(tmp_path, capsys, number, not_ignored):
    def evaluator(params, step):
        if step == 4:
            os.kill(os.getpid(), number)
        return {}

    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=r"stopped after step 5, .*--resume") as stopped:
        toy_train(tmp_path, evaluate_every=2, evaluator=evaluator)
    assert stopped.value.code == 75
    assert "stopped after step 5" in capsys.readouterr().err
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()] == ["3", "5"]
    assert not (tmp_path / "model").exists()


def test_batches_that_end_are_told(tmp_path):
    class Short(ToyTask):
        def batches(self, start, split="train"):
            yield next(super().batches(start))

    with pytest.raises(ValueError, match="batches ended before step 2 of 6"):
        toy_train(tmp_path, task=Short(toy_config(**CONFIG)))


def test_a_run_that_failed_to_start_leaves_nothing_behind(tmp_path):
    task = ToyTask(toy_config())
    task.trainable = ((".*", False),)
    with pytest.raises(ValueError, match="nothing would train"):
        toy_train(tmp_path / "run", task=task)
    assert list((tmp_path / "run").iterdir()) == []  # so that the corrected command is not refused


def test_speed_leaves_out_the_first_step_and_the_evaluation(tmp_path, monkeypatch):
    now = [0.0]

    def look():
        now[0] += 10
        return now[0]

    def evaluator(params, step):
        now[0] += 1000
        return {}

    monkeypatch.setattr("rewardedit_jax.training.loop.time.perf_counter", look)
    toy_train(tmp_path, steps=4, log_every=2, evaluate_every=2, checkpoint_every=0, evaluator=evaluator)
    # Looks: start, step 1 done, step 2 done; evaluation over, step 3 done, step 4 done. A step has two times eight
    # examples.
    assert [r["examples_per_second"] for r in records(tmp_path, timed=True)] == [1 * 16 / 10, 2 * 16 / 20]


def test_each_step_is_dispatched_before_the_last_one_is_read(tmp_path, monkeypatch):
    order, call, read = [], CompiledStep.__call__, _Run._read
    monkeypatch.setattr(CompiledStep, "__call__", lambda step, *a: order.append("run") or call(step, *a))
    monkeypatch.setattr(_Run, "_read", lambda run, n, metrics: order.append(f"read {n}") or read(run, n, metrics))
    toy_train(tmp_path, steps=4, checkpoint_every=0)
    assert order == ["run", "run", "read 1", "run", "read 2", "run", "read 3", "read 4"]


def test_each_step_takes_over_the_memory_of_the_state_before(tmp_path):
    kept = []

    def evaluator(params, step):
        kept.append(params)
        return {}

    toy_train(tmp_path, steps=2, evaluate_every=1, evaluator=evaluator, **{"optimizer.ema_decay": None})
    assert [params["head"]["out"]["kernel"].is_deleted() for params in kept] == [True, False]
    assert not kept[0]["features"]["kernel"].is_deleted()


def test_every_record_has_a_speed(tmp_path):
    toy_train(tmp_path / "run", steps=2)
    toy_train(tmp_path / "run", steps=3, resume=True)
    first, *later = (record["examples_per_second"] for record in records(tmp_path / "run", timed=True))
    assert len(later) == 2
    assert 0 < first < later[0]  # it has compiled
