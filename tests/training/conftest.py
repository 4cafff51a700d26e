"""What tests of trainings share: the warnings that are logged."""

import pytest


@pytest.fixture
def logged(monkeypatch):
    lines = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *values: lines.append(text % values))
    return lines
