"""Tests `training/metrics.py`."""

import json

import numpy as np
from PIL import Image

from rewardedit_jax.training.metrics import MetricWriter


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_record_can_be_read_as_soon_as_it_is_written(tmp_path, capsys):
    with MetricWriter(tmp_path, start=0, steps=4) as writer:
        writer.write(2, {"loss": 0.5, "examples_per_second": 12.0, "other": 1.0})
        assert records(tmp_path) == [{"step": 2, "loss": 0.5, "examples_per_second": 12.0, "other": 1.0}]
    assert capsys.readouterr().out == "step 2/4 loss 0.5 examples_per_second 12\n"
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_a_resumed_run_tells_each_step_once(tmp_path):
    with MetricWriter(tmp_path, start=0, steps=4) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    with MetricWriter(tmp_path, start=2, steps=4) as writer:
        writer.write(3, {"loss": 30.0})
    assert [(r["step"], r["loss"]) for r in records(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_values_that_are_not_finite_stay_valid_json(tmp_path):
    with MetricWriter(tmp_path, start=0, steps=1) as writer:
        writer.write(1, {"loss": 1.0, "score": float("nan"), "other": float("inf")})
    assert records(tmp_path) == [{"step": 1, "loss": 1.0, "score": None, "other": None}]


def test_pictures_are_files(tmp_path):
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    with MetricWriter(tmp_path, start=0, steps=1) as writer:
        writer.write_image(7, "validation/edits", image)
    with Image.open(tmp_path / "images" / "validation" / "edits_0000007.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), image)
