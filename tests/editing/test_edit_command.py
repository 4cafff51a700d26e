"""launch/edit.py as a user runs it."""

import json
import os
import runpy
import subprocess
import sys

import pytest
from paths import ROOT
from PIL import Image
from tiny_editors import SIDE, picture, tiny_editor


def run(*args):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(ROOT / "launch" / "edit.py"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


@pytest.mark.slow
def test_folder_with_a_torn_picture(tmp_path):
    """The others are edited, the torn one is named, and the exit status says that not all went well."""
    tiny_editor(layout="released").save(tmp_path / "model")
    photos, edited = tmp_path / "photos", tmp_path / "edited"
    photos.mkdir()
    for name in "ac":
        Image.fromarray(picture(0, SIDE, 2 * SIDE)).save(photos / f"{name}.png")
    (photos / "b.png").write_bytes(b"torn")
    flags = ["--model", tmp_path / "model", "--image", photos, "--output", edited]
    done = run(*flags, "--instruction", "make it snow", "--steps", 2, "--sampler", "ddim", "--reward", 5, 4, 3)
    assert done.returncode == 1, done.stderr
    assert "error: 1 of 3 images were not edited:" in done.stderr
    assert f"compiling the editor for batches of 2, {SIDE} × {SIDE // 2} pixels" in done.stderr
    assert str(photos / "b.png") in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in edited.iterdir()) == ["a.png", "c.png"]
    with Image.open(edited / "c.png") as image:
        assert image.size == (SIDE, SIDE // 2)


def command(monkeypatch, *arguments):
    """The command in this process."""
    monkeypatch.setattr(sys, "argv", ["edit.py", *map(str, arguments)])
    runpy.run_path(str(ROOT / "launch" / "edit.py"), run_name="__main__")


def test_bad_items_are_listed_and_counted(tmp_path, monkeypatch, capsys):
    """A bad line and a torn image do not stop the others; they are an error unless --skip-bad allows so many."""
    tiny_editor().save(tmp_path / "model")
    Image.fromarray(picture()).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"torn")
    lines = [{"image": "a.png", "output": "../esc.png"}, {"image": "b.png"}, {"image": "a.png"}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    flags = ("--model", tmp_path / "model", "--image", tmp_path / "list.jsonl", "--output", tmp_path / "out")
    flags = (*flags, "--instruction", "make it snow", "--steps", 1)
    for allowed in (0, 1):
        with pytest.raises(SystemExit, match=r"(?s)2 of 3 images were not edited:.*line 1: .*esc\.png.*b\.png"):
            command(monkeypatch, *flags, "--skip-bad", allowed)
    command(monkeypatch, *flags, "--skip-bad", 2)
    assert "warning: 2 of 3 images were not edited:" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["00002_a.png"]
    assert not (tmp_path / "esc.png").exists()


@pytest.mark.parametrize("flag", [("--instruction", " "), ("--skip-bad", "-1"), ("--skip-bad", "x")])
def test_arguments_that_cannot_be_are_refused(tmp_path, monkeypatch, capsys, flag):
    with pytest.raises(SystemExit):
        command(monkeypatch, "--model", "m", "--image", tmp_path, "--output", tmp_path, *flag)
    assert f"{flag[1]!r}: expected" in capsys.readouterr().err


def test_errors_are_one_sentence(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    flags = ["--model", tmp_path, "--image", tmp_path / "a.png", "--output", tmp_path / "b.png"]
    done = run(*flags, "--instruction", "make it snow", "--reward", 5, 6, 5)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "preserving=6.0" in done.stderr


def test_help_teaches():
    found = run("--help").stdout
    for words in ("python launch/edit.py --model", '{"image": "a.png"', "--low-reward", "--shard", "euler_ancestral"):
        assert words in found
