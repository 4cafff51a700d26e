"""Both notebooks run from the first cell to the last, with few sampling steps."""

import os

import nbformat
import pytest
from nbclient import NotebookClient
from paths import ROOT
from tiny_models import tiny_editor

COLABS = ROOT / "colabs"
# Text that must be in the notebook → what it is replaced with. Published weights stay out; a tiny editor with reward
# modules runs the cell that needs one.
SMALLER = {
    "edit.ipynb": {'"steps": 15': '"steps": 2', "REWARD_EDITOR = None": "REWARD_EDITOR = {editor!r}"},
    "score.ipynb": {"EDIT_REWARD = None": "EDIT_REWARD = None"},
}


def test_every_notebook_is_run():
    assert {file.name for file in COLABS.glob("*.ipynb")} == SMALLER.keys()


@pytest.mark.parametrize("name", SMALLER)
def test_outputs_are_not_committed(name):
    cells = nbformat.read(COLABS / name, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def smaller(name: str, editor: str) -> nbformat.NotebookNode:
    """The notebook with its sizes replaced, without the cell that installs the package."""
    notebook = nbformat.read(COLABS / name, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not cell.source.startswith("%pip")]
    for old, new in SMALLER[name].items():
        (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and old in cell.source]
        cell.source = cell.source.replace(old, new.format(editor=editor))
    return notebook


def pictures(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "expected"), [("edit.ipynb", 2), ("score.ipynb", 1)])
def test_a_notebook_runs(tmp_path, name, expected):
    tiny_editor(layout="released").save(tmp_path / "editor")
    notebook = smaller(name, str(tmp_path / "editor"))
    # The kernel is a process of its own, which has to find this checkout.
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    resources = {"metadata": {"path": str(COLABS)}}
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources)
    client.execute(env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": paths})  # raises the error of a cell
    assert pictures(notebook) == expected
