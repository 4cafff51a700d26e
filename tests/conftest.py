"""Reference data that lies beside the checkout, for the tests that compare with it."""

import json
import runpy
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference outputs and specifications; tests that want it are skipped without."""
    folder = Path(__file__).parents[2] / "shared"
    if not (folder / "fixtures").is_dir():
        pytest.skip(f"there are no reference outputs at {folder}")
    return folder


@pytest.fixture(scope="session")
def editor_a_fixture(shared) -> Path:
    """The folder with the expected values of the reference editor."""
    folder = shared / "fixtures" / "editor_a"
    if not folder.is_dir():
        pytest.skip(f"there is no reference editor at {folder}")
    return folder


@pytest.fixture(scope="session")
def editor_a_dir(editor_a_fixture, tmp_path_factory) -> Path:
    """The reference editor as a pipeline directory (188 MiB, a tiny reward-conditioned editor of 32 px)."""
    out = tmp_path_factory.mktemp("editor_a")
    write = runpy.run_path(str(editor_a_fixture / "make_editor_dir.py"))["write_editor_dir"]
    write(json.loads((editor_a_fixture / "editor_a.json").read_text("utf-8")), str(out))
    return out
