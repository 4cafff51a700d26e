"""Evaluations while a model trains have their records, also in runs that were stopped."""

import os
import signal

import pytest
from toy_task import ToyTask, records, toy_config

from rewardedit_jax.training.loop import Interrupted, train


class Evaluator:
    """Measures a parameter; at step `at`, while `armed`, it does `what` first."""

    def __init__(self, at=None, what=None):
        self.at, self.what, self.armed, self.steps = at, what, True, []

    def __call__(self, params, step):
        if step == self.at and self.armed:
            self.armed = False
            self.what()
        self.steps.append(step)
        return {"bias": float(params["head"]["out"]["bias"][0])}


def run(workdir, evaluator, **changes):
    settings = {"checkpoint_every": 2, "evaluate_every": 2} | changes
    config = toy_config(**settings)
    return train(ToyTask(config, noise=0.1, evaluator=evaluator), config, workdir, resume=workdir.exists())


@pytest.fixture
def whole(tmp_path):
    run(tmp_path / "whole", Evaluator())
    found = records(tmp_path / "whole")
    assert [(r["step"], "val/bias" in r) for r in found if r["step"] % 2 == 0] == [
        (step, evaluated) for step in (2, 4, 6) for evaluated in (False, True)
    ]
    return found


def test_an_evaluation_that_was_killed_is_made_when_the_run_goes_on(tmp_path, whole):
    def killed():
        raise KeyboardInterrupt

    evaluator = Evaluator(4, killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", evaluator)
    assert records(tmp_path / "cut")[-1]["step"] == 4  # with the loss of that step
    run(tmp_path / "cut", evaluator)
    assert evaluator.steps == [2, 4, 6]
    assert records(tmp_path / "cut") == whole


def test_a_run_told_to_stop_leaves_its_evaluation_to_the_next(tmp_path):
    # The signal comes while step 3 is evaluated, and step 4 is the last one before the stop.
    evaluator = Evaluator(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="stopped after step 4"):
        run(tmp_path / "cut", evaluator, evaluate_every=1)
    assert evaluator.steps == [1, 2, 3]
    run(tmp_path / "cut", evaluator, evaluate_every=1)
    assert evaluator.steps == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in records(tmp_path / "cut") if "val/bias" in r] == [1, 2, 3, 4, 5, 6]


def test_what_is_recorded_is_not_evaluated_again(tmp_path, whole):
    evaluator = Evaluator()
    run(tmp_path / "whole", evaluator, steps=8)
    assert evaluator.steps == [8]
    assert records(tmp_path / "whole")[: len(whole)] == whole


def test_evaluations_are_printed(tmp_path, capsys):
    run(tmp_path / "run", Evaluator())
    lines = [line for line in capsys.readouterr().out.splitlines() if "val/bias" in line]
    assert [line.split()[:3] for line in lines] == [["step", f"{n}/6", "val/bias"] for n in (2, 4, 6)]
