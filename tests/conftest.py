"""Fixtures of several tests."""

import pytest


@pytest.fixture
def scratch(tmp_path_factory, monkeypatch):
    """A TMPDIR of its own, so that what is left behind can be seen."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert [p.name for p in folder.iterdir()] == []
