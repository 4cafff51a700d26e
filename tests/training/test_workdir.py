"""Tests `training/workdir.py`: where a run can start or resume, its configuration, and what is set aside."""

import json
from functools import partial
from pathlib import Path

import pytest
from toy_task import toy_config

from rewardedit_jax.data.output_files import set_aside
from rewardedit_jax.training.workdir import check_workdir, open_workdir, record_config


@pytest.fixture
def logged(monkeypatch):
    lines = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *values: lines.append(text % values))
    return lines


@pytest.fixture
def dead(tmp_path):
    """The directory of a run that died before its first checkpoint, while it wrote one."""
    (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp-1").mkdir(parents=True)
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    (tmp_path / ".metrics.jsonl.part").touch()
    return tmp_path


def test_a_directory_with_other_files_is_never_used(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match=r"not empty: it holds thesis\.txt.*another directory"):
        open_workdir(tmp_path, resume=False)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint to resume from, but thesis\.txt"):
        open_workdir(tmp_path, resume=True)


def test_a_run_is_not_overwritten(tmp_path):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    with pytest.raises(FileExistsError, match=r"not empty.*--resume.*another directory"):
        open_workdir(tmp_path, resume=False)
    assert open_workdir(tmp_path, resume=True) == tmp_path


def test_a_new_or_empty_directory_starts(tmp_path, logged):
    assert open_workdir(tmp_path / "new" / "run", resume=False).is_dir()
    assert open_workdir(tmp_path / "new" / "run", resume=False).is_dir()
    assert logged == []
    assert open_workdir(tmp_path / "new" / "run", resume=True).is_dir()
    assert "no checkpoint" in logged[0]


def test_resuming_in_a_directory_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="start without --resume"):
        open_workdir(tmp_path / "missing", resume=True)
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_died_before_its_first_checkpoint_starts_again(dead, logged, resume):
    check_workdir(dead, resume)
    assert (dead / "config.json").exists()  # a check changes nothing
    open_workdir(dead, resume)
    assert {entry.name for entry in dead.iterdir()} >= {"config.json.old1", "metrics.jsonl.old1", "tensorboard.old1"}
    assert not (dead / "metrics.jsonl").exists()
    assert "metrics.jsonl.old1" in logged[0]
    # It dies a second time.
    (dead / "metrics.jsonl").write_text('{"step": 2}\n')
    open_workdir(dead, resume)
    assert [(dead / f"metrics.jsonl.old{n}").read_text() for n in (1, 2)] == ['{"step": 1}\n', '{"step": 2}\n']


@pytest.mark.parametrize("name", ["model", "thesis.txt", "checkpoints/notes.txt"])
def test_a_dead_run_with_other_files_does_not_start_again(dead, name):
    (dead / name).touch()
    with pytest.raises(FileExistsError, match=name.split("/")[0]):
        open_workdir(dead, resume=False)
    assert (dead / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", ["gs://bucket/run", Path("s3://bucket/run"), "file:///tmp/run", "http://host/run"])
def test_a_url_is_not_a_directory(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"expected a local path, got a (gs|s3|file|http): URL"):
        open_workdir(name, resume=False)
    assert list(tmp_path.iterdir()) == []


def test_changed_fields_are_reported_when_resuming(tmp_path, logged):
    record = partial(record_config, tmp_path)
    record(toy_config())
    record(toy_config(steps=100))
    assert logged == []
    record(toy_config(steps=200, seed=9, **{"optimizer.learning_rate": 0.5}))
    assert logged == ["config.optimizer.learning_rate was 0.01, is now 0.5", "config.seed was 3, is now 9"]
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 200


@pytest.mark.parametrize("content", [b"", b'{"steps": 3', bytes(40), b"[1, 2]", b'{"seed": "\xff"}'])
def test_a_damaged_configuration_is_set_aside(tmp_path, logged, content):
    (tmp_path / "config.json").write_bytes(content)
    record_config(tmp_path, toy_config())
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 3
    assert (tmp_path / "config.json.damaged1").read_bytes() == content
    (line,) = logged
    assert "config.json.damaged1" in line


def test_a_directory_in_place_of_the_configuration_is_set_aside(tmp_path, logged):
    (tmp_path / "config.json").mkdir()
    record_config(tmp_path, toy_config())
    assert (tmp_path / "config.json").is_file()
    assert (tmp_path / "config.json.damaged1").is_dir()


def test_a_read_only_configuration_is_replaced(tmp_path):
    record_config(tmp_path, toy_config())
    (tmp_path / "config.json").chmod(0o444)
    record_config(tmp_path, toy_config(steps=9))
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 9


def test_what_is_set_aside_never_replaces_a_file(tmp_path):
    for n in (1, 2):
        (tmp_path / "a.txt").write_text(str(n))
        assert set_aside(tmp_path / "a.txt", "old") == tmp_path / f"a.txt.old{n}"
    assert (tmp_path / "a.txt.old1").read_text() == "1"
