"""Output files: complete or absent, with errors that name them."""

import errno

import pytest

from rewardedit_jax.data.output_files import atomic_write


def fail_while_writing(file, error):
    with atomic_write(file) as unfinished:
        unfinished.write_text("new")
        raise error


def test_an_error_leaves_the_old_file(tmp_path):
    file = tmp_path / "labels.jsonl"
    file.write_text("old")
    with pytest.raises(KeyError):
        fail_while_writing(file, KeyError)
    assert file.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["labels.jsonl"]


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")  # as write() raises it
    with pytest.raises(OSError, match=r"No space left on device: '.*labels\.jsonl'"):
        fail_while_writing(tmp_path / "labels.jsonl", full)


def test_other_errors_stay_as_they_are(tmp_path):
    with pytest.raises(ConnectionResetError, match=r"^$"):
        fail_while_writing(tmp_path / "labels.jsonl", ConnectionResetError)
