"""Runs whose ranks and shards are forked off servers that have imported what they need: see `forked.py`.

A start then takes a tenth of the time.  The program is the same: real processes, real pipes, connections and MPI, and
SIGKILL.  Only other signals do not reach them, and they are below their servers, not below the launcher.

Tests begin processes so while the variables of `Forks` are set: with the fixture `forks`.
"""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
FORKED = ROOT / "tests" / "forked.py"
# What ranks and shards import in any case.
OF_RANKS = ("simulator.framework", "simulator.shards.process", "reader", "trainer")
OF_SHARDS = ("paddle", "model", "reader", "trainer", "simulator.worker.shard", "simulator.worker.user_turns",
             "simulator.worker.evaluation", "simulator.worker.group_tests")  # fmt: skip
# Sockets of the servers of ranks, one after another's turn, and the process ids of all servers.
RANKS, SERVERS = "FORKED_RANKS", "FORKED_SERVERS"
SHARDS = "FORKED_SHARDS"
_SECONDS = 120
_turns = itertools.count()


def python():
    """The start of a command line that runs Python."""
    if RANKS not in os.environ:
        return [sys.executable]
    addresses = os.environ[RANKS].split(os.pathsep)
    return [sys.executable, "-I", "-S", str(FORKED), addresses[next(_turns) % len(addresses)]]


def forked():
    """All processes that the servers have forked and that are still there."""
    servers = os.environ.get(SERVERS, "").split()
    return [child for server in servers for child in psutil.Process(int(server)).children()]


class Server:
    """Forks processes that have imported modules."""

    def __init__(self, address, modules, variables):
        self.address = address
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        serve = [sys.executable, FORKED, "serve", address, *modules]
        self.process = subprocess.Popen(serve, env=variables, cwd=ROOT, **pipes)

    def wait_until_ready(self):
        assert self.process.stdout.readline() == b"ready\n"

    def close(self):
        self.process.stdin.close()
        self.process.wait(_SECONDS)
        self.process.stdout.close()


class Forks:
    """The servers; two take turns with the ranks, since hashes of strings differ between any two starts.

    Args:
        folder: of their sockets.
        variables: that runs have.
        of_shards: those of shards.
    """

    def __init__(self, folder, variables, of_shards):
        self._shards = Server(folder / "shards", OF_SHARDS, of_shards)
        # OpenBLAS starts threads when it is imported; ranks do no products of matrices.
        self._more = {"OPENBLAS_NUM_THREADS": "1"}
        variables = {**variables, **self._more}
        self._ranks = [Server(folder / seed, OF_RANKS, {**variables, "PYTHONHASHSEED": seed}) for seed in ("1", "2")]
        self._all = [self._shards, *self._ranks]
        for each in self._all:
            each.wait_until_ready()

    @property
    def variables(self):
        """By which processes are forked."""
        ranks = os.pathsep.join(str(each.address) for each in self._ranks)
        servers = " ".join(str(each.process.pid) for each in self._all)
        return {RANKS: ranks, SHARDS: str(self._shards.address), SERVERS: servers, **self._more}

    def close(self):
        for each in self._all:
            each.close()
