"""Commands, settings, paths and Python code in README, docs and docstrings fit the program."""

import argparse
import ast
import importlib
import inspect
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from paths import ROOT
from PIL import Image

from rewardedit_jax.shapes.experiments import EXPERIMENTS

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "tests" / "references" / "README.md"])
SCRIPTS = sorted([*ROOT.glob("launch/*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("configs/*.py")])
RECIPES = sorted(ROOT.glob("configs/*.py"))
FOLDERS = "benchmarks|colabs|configs|docs|launch|rewardedit_jax|tests"


class Command(NamedTuple):
    """A command line of a document."""

    place: str
    words: list[str]

    @property
    def script(self) -> str:
        return self.words[1]

    @property
    def arguments(self) -> list[str]:
        return self.words[2:]


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of the fenced blocks of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def inline(page: Path) -> list[str]:
    """The code spans of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def shell_lines(text: str) -> Iterator[list[str]]:
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if re.match(r"\s*(python|make|pip|pytest) ", line):
            yield shlex.split(line, comments=True)


def documented() -> Iterator[Command]:
    for page in PAGES:
        for language, text in blocks(page):
            if language in ("", "sh"):
                yield from (Command(page.name, words) for words in shell_lines(text))
        yield from (Command(page.name, shlex.split(span)) for span in inline(page) if re.match(r"(python|make) ", span))
    for script in SCRIPTS:
        text = ast.get_docstring(ast.parse(script.read_text("utf-8"))) or ""
        yield from (Command(script.name, words) for words in shell_lines(text))


COMMANDS = list(documented())
PYTHON = [command for command in COMMANDS if command.words[0] == "python" and command.script.endswith(".py")]


def name_of(command: Command) -> str:
    return f"{command.place}: {shlex.join(command.words)}"


class Parsed(Exception):
    """Ends a script when its arguments are parsed. Holds what argparse does not know."""


def parse(script: Path, arguments: list[str], monkeypatch) -> list[str]:
    """Runs a script up to the end of `parse_args`; returns the arguments that its parser leaves over."""
    original, started = argparse.ArgumentParser.parse_known_args, []

    def stop_after(self, *args, **kwargs):
        if started:  # the parser of a subcommand
            return original(self, *args, **kwargs)
        started.append(self)
        raise Parsed(original(self, *args, **kwargs)[1])

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop_after)
    monkeypatch.setattr(sys, "argv", [script.name, *arguments])
    with pytest.raises(Parsed) as stopped:
        runpy.run_path(str(script), run_name="__main__")
    return stopped.value.args[0]


def absl_flags(script: Path) -> set[str]:
    return {"config", *re.findall(r'flags\.DEFINE_\w+\(\s*"(\w+)"', script.read_text("utf-8"))}


def recipe(argument: str):
    """The recipe of configs/FILE.py or configs/FILE.py:variant."""
    file, _, variant = argument.partition(":")
    get_config = runpy.run_path(str(ROOT / file))["get_config"]
    return get_config(variant) if variant else get_config()


def has_field(config, path: str) -> bool:
    for name in path.split("."):
        if not (hasattr(config, "keys") and name in config):
            return False
        config = config[name]
    return True


def unknown_settings(arguments: list[str]) -> list[str]:
    """The `--config.x.y=` that the recipe of `--config` does not have."""
    paths = [match[1] for word in arguments if (match := re.match(r"--config\.([\w.]+)", word))]
    config = recipe(arguments[arguments.index("--config") + 1]) if "--config" in arguments else None
    return [path for path in paths if not has_field(config, path)]


def test_documents_have_commands():
    assert len(PYTHON) > 30
    assert {"launch/train.py", "launch/edit.py", "launch/score.py", "launch/evaluate.py", "launch/experiment.py"} <= {
        command.script for command in PYTHON
    }


@pytest.mark.parametrize("command", PYTHON, ids=name_of)
def test_a_command_is_understood(command, monkeypatch):
    script, arguments = ROOT / command.script, command.arguments
    assert script.is_file()
    if "NAME" in arguments or "--help" in arguments or ROOT / "tests" in script.parents:
        return
    if script.name in ("cache.py", "train.py"):  # absl's flags would be defined twice in one process
        flags = {re.match(r"--(\w+)", word)[1] for word in arguments if word.startswith("--")}
        assert flags <= absl_flags(script)
    else:
        rest = parse(script, arguments, monkeypatch)
        assert not [word for word in rest if not word.startswith("--config.")]
    if script.name == "experiment.py":
        arguments = ["--config", f"configs/{EXPERIMENTS[arguments[0]].recipe}", *arguments]
    assert not unknown_settings(arguments)


def test_a_wrong_command_is_found(monkeypatch):
    assert unknown_settings(["--config", "configs/ip2p.py:debug", "--config.steps=1", "--config.data.rot=x"]) == [
        "data.rot"
    ]
    with pytest.raises(SystemExit):
        parse(
            ROOT / "launch" / "edit.py",
            ["--model", "x", "--image", "y", "--output", "z", "--step", "many"],
            monkeypatch,
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_in_the_text_exist(page):
    """`config.x.y` in a code span is a field of a recipe."""
    recipes = [recipe(f"configs/{file.name}:shapes") for file in RECIPES]
    paths = {path for span in inline(page) for path in re.findall(r"(?<![\w/])(?:--)?config\.([a-z][\w.]*\w)", span)}
    paths -= {"json"}  # the file config.json
    assert not {path for path in paths if not any(has_field(config, path) for config in recipes)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_links_exist(page):
    text = page.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]
    paths = {match for span in inline(page) for match in re.findall(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./]*\w", span)}
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_make_targets_and_extras_exist(monkeypatch):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = {word for c in COMMANDS if c.words[0] == "make" for word in c.words[1:]}
    assert made <= targets
    settings = {}
    monkeypatch.setattr("setuptools.setup", settings.update)
    runpy.run_path(str(ROOT / "setup.py"))
    extras = {extra for c in COMMANDS if c.words[0] == "pip" for extra in re.findall(r"\[(\w+)\]", " ".join(c.words))}
    assert extras
    assert extras <= settings["extras_require"].keys()


JSON_BLOCKS = [(page.name, text) for page in PAGES for language, text in blocks(page) if language == "json"]


@pytest.mark.parametrize(("page", "text"), JSON_BLOCKS, ids=[f"{page}-{text[:20]}" for page, text in JSON_BLOCKS])
def test_json_is_json(page, text):
    json.loads(text)


PYTHON_BLOCKS = [(page.name, text) for page in PAGES for language, text in blocks(page) if language == "python"]


class Calls(ast.NodeVisitor):
    """Binds the arguments of every call whose function is known: imported names, and methods of what they return."""

    def __init__(self):
        self.names, self.checked = {}, []

    def visit_ImportFrom(self, node):
        module = importlib.import_module(node.module)
        self.names |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}

    def visit_Assign(self, node):
        self.generic_visit(node)
        if isinstance(node.value, ast.Call) and (made := self.result(node.value.func)):
            self.names[node.targets[0].id] = made

    def result(self, func):
        """The class that a constructor, or a `load` of that class, returns an instance of."""
        owner = func.value if isinstance(func, ast.Attribute) and func.attr == "load" else func
        found = self.names.get(owner.id) if isinstance(owner, ast.Name) else None
        return found if inspect.isclass(found) else None

    def visit_Call(self, node):
        self.generic_visit(node)
        if isinstance(node.func, ast.Name):
            function, positional = self.names.get(node.func.id), node.args
        elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            owner = self.names.get(node.func.value.id)
            function = owner and getattr(owner, node.func.attr)  # AttributeError: no such method
            bound = inspect.ismethod(function)
            positional = node.args if bound else [None, *node.args]  # a function of the class takes the instance first
        else:
            return
        if function:
            inspect.signature(function).bind(*positional, **{word.arg: None for word in node.keywords})
            self.checked.append(function.__name__)


@pytest.mark.parametrize(("page", "text"), PYTHON_BLOCKS, ids=[f"{page}-{text[:40]}" for page, text in PYTHON_BLOCKS])
def test_python_calls_what_exists(page, text):
    Calls().visit(ast.parse(text))


def test_a_wrong_call_is_found():
    calls = Calls()
    start = "from rewardedit_jax import Editor, Reward\neditor = Editor.load('shapes')\n"
    calls.visit(ast.parse(start + "editor.edit('a.png', 'x', reward=Reward(following=5), seed=1)"))
    assert calls.checked == ["load", "Reward", "edit"]
    for wrong in ("editor.edits('a.png')", "editor.edit('a.png', 'x', sed=1)", "from rewardedit_jax import Editors"):
        with pytest.raises((AttributeError, TypeError)):
            Calls().visit(ast.parse(start + wrong))


# (document, how its command begins, what it is run with) of commands that take seconds when they are small.
CHEAP = (
    ("README.md", "launch/evaluate.py shapes_scorer", {}, ["--count", "8"], ["runs/reliability.png"]),
    ("README.md", "launch/score.py --model DIR --source", {"DIR": "shapes_scorer"}, [], ["out.json", "out.png"]),
    ("edit.py", "launch/edit.py --model shapes", {}, ["--steps", "2"], ["out.png"]),
)


@pytest.mark.slow
@pytest.mark.parametrize(("place", "start", "replaced", "smaller", "written"), CHEAP, ids=[c[1] for c in CHEAP])
def test_a_command_runs(tmp_path, place, start, replaced, smaller, written):
    (command,) = [c for c in PYTHON if c.place == place and " ".join(c.words[1:]).startswith(start)]
    (tmp_path / "runs").mkdir()
    for shade, name in enumerate(("in", "a", "b", "c")):
        Image.new("RGB", (32, 32), (60 * shade, 90, 120)).save(tmp_path / f"{name}.png")
    arguments = [replaced.get(word, word) for word in command.arguments]
    done = subprocess.run(
        [sys.executable, ROOT / command.script, *arguments, *smaller],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / name).stat().st_size for name in written)
