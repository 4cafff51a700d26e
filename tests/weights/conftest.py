"""What tests of weight files share: traps for pickles, and the published files of a model."""

import builtins
import os
import sys
from types import SimpleNamespace

import pytest
from smartedit_dirs import write_sources


@pytest.fixture
def calls(monkeypatch):
    """What was called of the globals that the pickles below name."""
    found = []

    def trap(*arguments, **_):
        found.append(arguments)

    monkeypatch.setitem(sys.modules, "trap", SimpleNamespace(trap=trap))
    monkeypatch.setattr(os, "system", trap)
    with monkeypatch.context() as patch:  # not while pytest works
        patch.setattr(builtins, "eval", trap)
        yield found


@pytest.fixture(scope="session")
def published_smartedit(tmp_path_factory):
    """The folder of the fixture's published models, which tests do not change."""
    return write_sources(tmp_path_factory.mktemp("smartedit") / "published")
