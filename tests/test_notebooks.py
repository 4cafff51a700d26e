"""Each notebook runs from the first cell to the last when nothing but its file is there, and installs what it needs."""

import importlib.util
import json
import os
import shutil
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import nbformat
import pytest
from nbclient import NotebookClient
from paths import ROOT

COLABS = ROOT / "colabs"
NAMES = sorted(file.name for file in COLABS.glob("*.ipynb"))
# What must hold after the last cell, in its names.
RESULT = {
    "edit.ipynb": "assert (scores[5].mean(axis=0) > scores[0].mean(axis=0)).all()",
    "score.ipynb": "assert 0.5 <= scorer.prefer(scores[first], scores[second]) <= 1",
}
PICTURES = {"edit.ipynb": 2, "score.ipynb": 1}  # among the outputs of its cells


def code_cells(name: str) -> list[str]:
    return [cell.source for cell in nbformat.read(COLABS / name, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_not_committed(name):
    cells = nbformat.read(COLABS / name, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def pictures(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_alone(tmp_path, name):
    shutil.copy(COLABS / name, tmp_path)
    notebook = nbformat.read(tmp_path / name, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(RESULT[name]))
    # The kernel is a process of its own, which has to find this checkout.
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute(env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": paths})  # raises the error of a cell
    assert pictures(notebook) == PICTURES[name]


@pytest.fixture
def installed(monkeypatch) -> list[str]:
    """What pip is asked to install, on a machine without the package."""
    asked = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: asked.append(command[-1]))
    return asked


@pytest.mark.parametrize("name", NAMES)
def test_the_first_cell_installs_the_clone_around_the_notebook(monkeypatch, installed, name):
    monkeypatch.chdir(COLABS)
    exec(code_cells(name)[0], {})
    assert [Path(package) for package in installed] == [ROOT]


@pytest.mark.parametrize("name", NAMES)
def test_the_first_cell_of_a_lone_notebook_installs_the_repository(monkeypatch, tmp_path, installed, name):
    monkeypatch.chdir(tmp_path)
    cell = code_cells(name)[0]
    with pytest.raises(RuntimeError, match="set REPOSITORY"):
        exec(cell, {})
    exec(cell.replace('REPOSITORY = ""', 'REPOSITORY = "https://host/owner/repository"'), {})
    assert installed == ["git+https://host/owner/repository"]


@pytest.fixture
def colab(monkeypatch, tmp_path):
    """A machine with the variables of Colab, whose notebook server tells the path that it is given."""

    class Sessions(BaseHTTPRequestHandler):
        path_of_notebook = ""

        def do_GET(self):
            self.send_response(200 if self.path == "/api/sessions" else 404)
            self.end_headers()
            self.wfile.write(json.dumps([{"name": "edit.ipynb", "path": self.path_of_notebook}]).encode())

        def log_message(self, *_):
            pass

    monkeypatch.chdir(tmp_path)
    with HTTPServer(("127.0.0.1", 0), Sessions) as server:
        monkeypatch.setenv("COLAB_JUPYTER_IP", "127.0.0.1")
        monkeypatch.setenv("KMP_TARGET_PORT", str(server.server_port))
        Thread(target=server.serve_forever, daemon=True).start()
        yield Sessions
        server.shutdown()


@pytest.mark.parametrize("name", NAMES)
def test_in_colab_the_repository_is_the_one_that_the_notebook_was_opened_from(colab, installed, name):
    file = "https://github.com/an-owner/a.repository/blob/main/colabs/edit.ipynb"
    colab.path_of_notebook = f"fileId={quote(file)}"
    exec(code_cells(name)[0], {})
    assert installed == ["git+https://github.com/an-owner/a.repository"]


@pytest.mark.parametrize("name", NAMES)
def test_in_colab_a_notebook_from_elsewhere_asks_for_the_repository(colab, installed, monkeypatch, name):
    colab.path_of_notebook = "fileId=1a2B3c"  # Google Drive
    with pytest.raises(RuntimeError, match="set REPOSITORY"):
        exec(code_cells(name)[0], {})
    monkeypatch.setenv("KMP_TARGET_PORT", "1")  # nobody answers
    with pytest.raises(RuntimeError, match="set REPOSITORY"):
        exec(code_cells(name)[0], {})


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_installed_where_the_package_is_there(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was run"))
    exec(code_cells(name)[0], {})
