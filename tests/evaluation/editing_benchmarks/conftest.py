"""An editor that loads at once, and judges that need no key."""

import pytest
from tiny_editors import tiny_editor

from rewardedit_jax.editing.editor import Editor


@pytest.fixture(scope="session")
def small_editor():
    return tiny_editor(layout="released")


@pytest.fixture
def _editor(small_editor, monkeypatch):
    """Every model is the small editor."""
    monkeypatch.setattr(Editor, "load", lambda *_, **__: small_editor)
