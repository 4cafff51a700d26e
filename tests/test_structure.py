"""Imports of the package only go down, without cycles; files and launchers keep their sizes."""

import ast
import io
import re
import statistics
import tokenize
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from paths import ROOT

PACKAGE = ROOT / "rewardedit_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
# From the ground up. A module may import its own floor and those below it.
FLOORS = (
    {"arguments", "command_line", "downloads", "listing", "params", "reward", "sharding", "startup"},
    {"diffusion", "models"},
    {"bases", "data", "training", "weights"},
    {"editing", "judging", "scoring"},
    {"curation", "evaluation"},
    {"shapes"},
)
TASK_ROOMS = {"bases", "editing", "scoring", "shapes"}  # the trainer knows tasks only through a protocol
VAGUE_NAMES = {"common", "core", "helper", "helpers", "lib", "misc", "util", "utils"}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in FILES}


def imported(tree: ast.AST) -> Iterator[str]:
    """The absolute dotted name of everything that is imported, within functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import; the checks below read absolute ones"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def known_module(name: str) -> str | None:
    """The module that provides a dotted name: the name itself, or what precedes the attribute."""
    return next((m for m in (name, name.rpartition(".")[0]) if m in MODULES), None)


def package_imports(source: str) -> set[str]:
    return {module for name in imported(ast.parse(source)) if (module := known_module(name))}


def room(module: str) -> str:
    """The folder, or the file at the top; "" for the public names of `rewardedit_jax/__init__.py`."""
    return (*module.split("."), "")[1]


def floor(module: str) -> int:
    """Public names lie above all rooms, as they import them."""
    if not room(module):
        return len(FLOORS)
    (found,) = [i for i, rooms in enumerate(FLOORS) if room(module) in rooms]
    return found


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Module → modules of the package that it imports."""
    return {module: package_imports(file.read_text("utf-8")) for module, file in MODULES.items()}


def test_the_reader_of_imports_sees_every_form():
    source = (
        "import rewardedit_jax.reward\n"
        "from rewardedit_jax.reward import Reward\n"
        "def late():\n"
        "    from rewardedit_jax import params\n"
        "    from rewardedit_jax.training import loop as trainer\n"
    )
    assert package_imports(source) == {
        "rewardedit_jax.reward",
        "rewardedit_jax.params",
        "rewardedit_jax.training.loop",
    }
    assert set(find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
    assert not find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_imports_form_no_cycle(graph):
    assert not find_cycle(graph)


def test_every_room_is_on_a_floor():
    rooms = {room(module) for module in MODULES} - {""}
    assert rooms <= set().union(*FLOORS), "add the room to FLOORS"


def test_imports_only_go_down(graph):
    upward = [(a, b) for a, imports in graph.items() for b in imports if floor(b) > floor(a)]
    assert not upward


def test_training_imports_no_task(graph):
    faults = [
        (a, b) for a, imports in graph.items() for b in imports if room(a) == "training" and room(b) in TASK_ROOMS
    ]
    assert not faults


def test_the_package_does_not_need_the_shapes_world(graph):
    """Commands, recipes, tests and notebooks use it; the rest of the package works without it."""
    faults = [(a, b) for a, imports in graph.items() for b in imports if room(b) == "shapes" != room(a)]
    assert not faults


@pytest.mark.parametrize("file", sorted((ROOT / "launch").glob("*.py")), ids=lambda file: file.name)
def test_a_launcher_is_thin(file):
    assert len(file.read_text("utf-8").splitlines()) <= 60


def test_names_say_what_a_file_is_for():
    names = {part for file in FILES for part in re.split(r"[/_.]", str(file.relative_to(PACKAGE)))}
    assert not names & VAGUE_NAMES


def test_every_folder_is_a_package():
    """Wheels leave out a folder without `__init__.py`."""
    assert all((file.parent / "__init__.py").is_file() for file in FILES)


def test_one_file_computes_the_paths_of_the_tests():
    """A test that moves to another folder keeps finding its references."""
    tests = [file for file in (ROOT / "tests").rglob("*.py") if file.name != "paths.py"]
    assert not [file for file in tests if re.search(r"__file__\)(\.resolve\(\))?\.parents\b", file.read_text("utf-8"))]


def comments_and_code(source: str) -> tuple[int, int]:
    """(lines with a comment, lines with code); a docstring is neither."""
    comments, code = 0, set()
    ignored = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments += 1
        elif token.type not in ignored:
            code.update(range(token.start[0], token.end[0] + 1))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            code.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return comments, len(code)


def test_comments_and_code_are_counted():
    assert comments_and_code('"""Doc."""\n\n# why\nx = 1  # unit\n\n\ndef f():\n    """Doc.\n\n    More."""\n') == (
        2,
        2,
    )


def test_sizes():
    sources = [file.read_text("utf-8") for file in FILES]
    lines = [source.count("\n") for source in sources]
    comments, code = map(sum, zip(*map(comments_and_code, sources), strict=True))
    found = {
        "comments per 100 lines of code": 100 * comments / code,
        "files": len(FILES),
        "median lines of a file": statistics.median(line for line in lines if line > 5),  # without empty __init__.py
        "lines": sum(lines),
    }
    allowed = {
        "comments per 100 lines of code": (8, 30),
        "files": (1, 320),
        "median lines of a file": (110, 160),
        "lines": (1, 40_000),
    }
    assert {name: value for name, value in found.items() if not allowed[name][0] <= value <= allowed[name][1]} == {}
