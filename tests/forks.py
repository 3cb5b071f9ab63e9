"""Runs whose ranks and shards are forked off servers that have imported what they need: see `forked.py`.

A start then takes a tenth of the time.  The program is the same: real processes, real pipes, connections and MPI, and
SIGKILL.  Only other signals do not reach them, and `psutil` finds them below their server, not below the launcher.
"""

import contextlib
import itertools
import subprocess
import sys
from pathlib import Path

import psutil
from running import ROOT, TIMEOUT, environment, kill_all

from simulator.shards.environment import shard_environment

FORKED = ROOT / "tests" / "forked.py"
RANKS = ("simulator.framework", "simulator.shards.process", "reader", "trainer")
SHARDS = ("paddle", "model", "reader", "trainer", "simulator.worker.shard", "simulator.worker.user_turns",
          "simulator.worker.evaluation", "simulator.worker.group_tests")  # fmt: skip


class Server:
    """Forks processes that have imported modules."""

    def __init__(self, address, modules, variables):
        self.address = address
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        serve = [sys.executable, FORKED, "serve", address, *modules]
        self.process = subprocess.Popen(serve, env=variables, cwd=ROOT, **pipes)

    def wait_until_ready(self):
        assert self.process.stdout.readline() == b"ready\n"

    def children(self):
        return psutil.Process(self.process.pid).children()

    def close(self):
        self.process.stdin.close()
        self.process.wait(TIMEOUT)
        self.process.stdout.close()


class Forks:
    """What `run` and `start` of `running.py` begin processes with.

    Two servers take turns with the ranks, since hashes of strings differ between them, as between any two starts.
    """

    def __init__(self, folder: Path):
        self._shards = Server(folder / "shards", SHARDS, shard_environment(environment(), tune=True))
        # OpenBLAS starts threads when it is imported; ranks do no products of matrices.
        plain = {**environment(), "OPENBLAS_NUM_THREADS": "1"}
        self._ranks = [Server(folder / seed, RANKS, {**plain, "PYTHONHASHSEED": seed}) for seed in ("1", "2")]
        self._turns = itertools.cycle(self._ranks)
        for each in self._servers:
            each.wait_until_ready()

    @property
    def _servers(self):
        return [*self._ranks, self._shards]

    def python(self):
        """The start of a command line, in place of `python`."""
        return [sys.executable, "-I", "-S", str(FORKED), str(next(self._turns).address)]

    def environment(self):
        """More variables, for the ranks."""
        return {"FORKED_SHARDS": str(self._shards.address), "OPENBLAS_NUM_THREADS": "1"}

    def kill_all(self, process):
        """SIGKILL of all ranks and shards there are, and of what has started them."""
        forked = [child for each in self._servers for child in each.children()]
        for each in forked:
            # A launcher that sees one rank end kills the others.
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        kill_all(process)
        psutil.wait_procs(forked, TIMEOUT)

    def close(self):
        for each in self._servers:
            each.close()
