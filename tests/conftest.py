"""Fixtures of several tests."""

import hypothesis
import psutil
import pytest
from forks import Forks, forked
from running import environment

from simulator.shards.environment import shard_environment

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
def servers(tmp_path_factory):
    """What processes are forked off."""
    servers = Forks(tmp_path_factory.mktemp("forks"), environment(), shard_environment(environment(), tune=True))
    yield servers
    servers.close()


@pytest.fixture(scope="module")
def forks(servers):
    """A quick start for the processes of a module's runs; what is about starts or signals does without."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in servers.variables.items():
            patch.setenv(name, value)
        yield
        _, left = psutil.wait_procs(forked(), timeout=10)
    assert not left


@pytest.fixture
def started(servers, monkeypatch):
    """In a module with `forks`: the processes of this test's runs are started, as a user starts them."""
    for name in servers.variables:
        monkeypatch.delenv(name)
