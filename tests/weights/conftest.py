"""What the tests of pickles share."""

import builtins
import os
import sys
from types import SimpleNamespace

import pytest


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
