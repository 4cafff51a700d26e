"""How the commands tell what went wrong."""

import argparse
import io
import runpy
import sys
import warnings
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from paths import ROOT

from rewardedit_jax.command_line import complain_clearly, local_path, png_file, whole_number


def complaint(error):
    """What a command says that fails so; its exit status is 1."""
    with pytest.raises(SystemExit) as ended, complain_clearly(AttributeError, KeyError):
        raise error
    assert isinstance(ended.value.code, str)  # which Python prints, to exit with status 1
    return ended.value.code.splitlines()[0]


def test_an_error_of_the_users_is_its_message():
    assert complaint(ValueError("no such thing; take another.")) == "error: no such thing; take another."


def test_a_missing_field_of_a_recipe_is_named():
    with pytest.raises(AttributeError) as caught:
        ConfigDict({"steps": 1}).get_type("stepz")
    assert complaint(caught.value).startswith("error: ")
    assert "stepz" in complaint(caught.value)


def test_of_a_printed_traceback_the_last_line_is_told():
    text = "Traceback (most recent call last):\n  File ...\nValueError: unknown variant"
    assert complaint(ValueError(text)) == "error: ValueError: unknown variant"


def test_a_terminal_of_another_encoding_shows_question_marks(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    with complain_clearly():
        print("8 × 179 edits", flush=True)
    assert written.getvalue() == b"8 ? 179 edits\n"


@pytest.mark.parametrize(("text", "least"), [("-1", 0), ("1.0", 0), ("", 0), ("nan", 0), ("0", 1)])
def test_whole_numbers(text, least):
    with pytest.raises(argparse.ArgumentTypeError, match=f"{least} or more"):
        whole_number(text, least)
    assert whole_number("12", least) == 12


@pytest.mark.parametrize("argument", ["--seeds", "--count"])
def test_a_comparison_has_seeds_and_scenes(argument, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["experiment", "table1", "--out=runs", argument, "0"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "launch" / "experiment.py"), run_name="__main__")
    assert f"argument {argument}: '0': expected a whole number, 1 or more" in capsys.readouterr().err


def test_faults_of_the_program_keep_their_traceback():
    with pytest.raises(AssertionError), complain_clearly():
        raise AssertionError


def test_a_warning_is_one_line():
    with complain_clearly():
        assert warnings.formatwarning("cut short", UserWarning, "file.py", 3) == "warning: cut short\n"
    assert "file.py:3" in warnings.formatwarning("cut short", UserWarning, "file.py", 3)


def test_a_picture_that_is_no_png_is_refused_before_the_work():
    assert png_file("out/A.PNG") == Path("out/A.PNG")
    with pytest.raises(argparse.ArgumentTypeError, match=r"out\.jpg.*\.png"):
        png_file("out.jpg")


@pytest.mark.parametrize("name", ["gs://bucket/run", "s3://b", "http://host/x", "file:///tmp/x", Path("gs://bucket")])
def test_an_output_must_be_local(name):
    with pytest.raises(ValueError, match=r"^(gs|s3|http|file):/.*expected a local path.*mounted directory"):
        local_path(name)


@pytest.mark.parametrize("name", ["runs/a", "/tmp/a:b", "C:/runs", "./gs:/x", "a b", "..", "time_12:30.png"])
def test_local_outputs_are_taken(name):
    assert local_path(name) == Path(name)


def test_argparse_prints_why_an_output_is_refused(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=local_path)
    parser.add_argument("--png", type=png_file)
    for argument in ("--output=gs://b/x", "--png=gs://b/x.png"):
        with pytest.raises(SystemExit):
            parser.parse_args([argument])
        assert "expected a local path, got a gs: URL" in capsys.readouterr().err


OUTPUTS = [
    ("edit", "--model=m --image=a.png", "--output"),
    ("score", "--model=m --source=a.png --edited=b.png", "--output"),
    ("score", "--model=m --source=a.png --edited=b.png", "--json"),
    ("evaluate", "shapes --model=m", "--output"),
    ("evaluate", "shapes_scorer --model=m", "--json"),
    ("evaluate", "shapes_scorers --arm a m", "--json"),
    ("evaluate", "genai_bench --answers=a.json", "--json"),
    ("experiment", "table1", "--out"),
]


@pytest.mark.parametrize(("command", "others", "output"), OUTPUTS)
def test_commands_refuse_a_url_as_output(monkeypatch, capsys, tmp_path, command, others, output):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [command, *others.split(), f"{output}=gs://bucket/x"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "launch" / f"{command}.py"), run_name="__main__")
    assert f"argument {output}: gs://bucket/x: expected a local path" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
