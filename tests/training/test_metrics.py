"""Tests `training/metrics.py`."""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

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


@pytest.fixture
def logged(monkeypatch):
    lines = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *values: lines.append(text % values))
    return lines


DAMAGED = [
    bytes(30),
    b'{"step": 2, "lo',
    b"[1, 2]",
    b'{"loss": 1.0}',
    b'{"step": "2"}',
    b'{"step": true}',
    b"\xff\xfe{}",
]


def test_damaged_lines_are_set_aside(tmp_path, logged):
    file, good = tmp_path / "metrics.jsonl", [b'{"step": %d, "loss": 1.0}' % n for n in (1, 2, 3)]
    file.write_bytes(b"\n".join([good[0], *DAMAGED, good[1], good[2]]) + b"\n")
    with MetricWriter(tmp_path, start=2, steps=4) as writer:
        writer.write(3, {"loss": 3.0})
    assert [(r["step"], r["loss"]) for r in records(tmp_path)] == [(1, 1.0), (2, 1.0), (3, 3.0)]
    assert (tmp_path / "metrics.jsonl.damaged1").read_bytes().splitlines() == DAMAGED
    (line,) = logged
    assert f"{len(DAMAGED)} damaged lines" in line
    assert "metrics.jsonl.damaged1" in line


def test_a_last_record_without_line_break_is_kept(tmp_path, logged):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}')
    with MetricWriter(tmp_path, start=2, steps=4):
        pass
    assert [record["step"] for record in records(tmp_path)] == [1, 2]
    assert logged == []


def test_a_directory_in_place_of_the_records_is_set_aside(tmp_path, logged):
    (tmp_path / "metrics.jsonl").mkdir()
    with MetricWriter(tmp_path, start=0, steps=4) as writer:
        writer.write(1, {"loss": 3.0})
    assert len(records(tmp_path)) == 1
    assert (tmp_path / "metrics.jsonl.damaged1").is_dir()
    assert "metrics.jsonl.damaged1" in logged[0]


def test_read_only_records_go_on(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    (tmp_path / "metrics.jsonl").chmod(0o444)
    with MetricWriter(tmp_path, start=1, steps=4) as writer:
        writer.write(2, {"loss": 3.0})
    assert len(records(tmp_path)) == 2


@pytest.fixture
def full():
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is absent: a file on a full disk")
    with Path("/dev/full").open("ab", buffering=0) as file:
        yield file


def test_records_wait_for_room(tmp_path, full, logged):
    with MetricWriter(tmp_path, start=0, steps=3) as writer:
        file, writer._file = writer._file, full
        for step in (1, 2):
            writer.write(step, {"loss": 1.0})
        writer._file = file
        writer.write(3, {"loss": 1.0})
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3]
    (line,) = logged  # once
    assert "metrics.jsonl" in line


def test_records_that_find_no_room_at_all_are_an_error_with_the_file(tmp_path, full):
    writer = MetricWriter(tmp_path, start=0, steps=1)
    writer._file.close()
    writer._file = full
    writer.write(1, {"loss": 1.0})
    with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
        writer.__exit__(None, None, None)


def test_charts_and_pictures_that_cannot_be_written_stop_nothing(tmp_path, logged, monkeypatch, full):
    (tmp_path / "images").write_text("a file in place of the folder")
    monkeypatch.setattr("tensorboardX.event_file_writer.RecordWriter.write", lambda self, data: full.write(b"x"))
    with MetricWriter(tmp_path, start=0, steps=2) as writer:
        for step in (1, 2):
            writer.write(step, {"loss": 1.0})
            writer.write_image(step, "edits", np.zeros((4, 4, 3), np.uint8))
    assert [record["step"] for record in records(tmp_path)] == [1, 2]
    assert sum("TensorBoard" in line for line in logged) == 1
    assert sum("edits_000000" in line for line in logged) == 2


def test_a_file_in_place_of_tensorboards_folder_stops_nothing(tmp_path, logged):
    (tmp_path / "tensorboard").touch()
    with MetricWriter(tmp_path, start=0, steps=1) as writer:
        writer.write(1, {"loss": 1.0})
    assert "TensorBoard" in logged[0]


def events(workdir):
    """The events of all files, in order: records of length, checksum, content and checksum."""
    for file in sorted((workdir / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


def test_charts_can_be_read_while_the_run_goes_on(tmp_path):
    with MetricWriter(tmp_path, start=4, steps=6) as writer:
        writer.write(5, {"loss": 0.5, "val/score": 2.0})
        writer.write_image(5, "val/edits", np.zeros((4, 4, 3), np.uint8))
        found = list(events(tmp_path))
    assert any(event.session_log.status == event.session_log.START and event.step == 5 for event in found)
    values = {value.tag: value for event in found for value in event.summary.value if event.step == 5}
    assert {tag: value.simple_value for tag, value in values.items() if not value.image.width} == {
        "loss": 0.5,
        "val/score": 2.0,
    }
    assert values["val/edits"].image.width == 4


def test_a_closed_terminal_stops_nothing(tmp_path, monkeypatch):
    class Closed:
        def write(self, text):
            raise OSError(5, "Input/output error")

        flush = write
        isatty = bool

    monkeypatch.setattr(sys, "stdout", Closed())
    with MetricWriter(tmp_path, start=0, steps=1) as writer:
        writer.announce("compiling the training step")
        writer.write(1, {"loss": 1.0})
    assert len(records(tmp_path)) == 1
