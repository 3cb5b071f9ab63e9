"""Fixtures of several tests."""

import hypothesis
import pytest
from forks import Forks

# A host that stands still for a moment makes no example wrong; what hangs is ended by its own timeout.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


@pytest.fixture
def scratch(tmp_path_factory, monkeypatch):
    """A TMPDIR of its own, so that what is left behind can be seen."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert [p.name for p in folder.iterdir()] == []


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """A quick start for the processes of runs; tests of starts, of signals and of what a launcher sees do without."""
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()
