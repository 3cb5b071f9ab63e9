"""Which part each MPI rank plays.  The only module that touches mpi4py, and only when a launcher started the run."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from protos.errors import FLError
from simulator.node_memory import leave_without_shared_memory

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
# Set by the launchers of MPICH, Open MPI and Slurm in every rank.
_RANK_VARIABLES = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")
# How long the other ranks get to end MPI together with this one.
_PATIENCE = 3.0


def launcher_rank() -> int | None:
    """The rank a launcher gave this process, None without a launcher; needs no MPI."""
    for name in _RANK_VARIABLES:
        value = os.environ.get(name)
        if value is not None and value.isdigit():
            return int(value)
    return None


class FLSimRoleMaker:
    """Rank 0 is the scheduler, every other rank a simulator; a single rank is both.

    Args:
        comm: an MPI communicator; None for COMM_WORLD if a launcher started this
            process, and for a run of one rank if not.
    """

    def __init__(self, comm: Any = None) -> None:
        if comm is None and launcher_rank() is not None:
            leave_without_shared_memory(os.environ)
            # Here and not at the top: a shard imports this module too and must not start MPI.
            from mpi4py import MPI

            comm = MPI.COMM_WORLD
        self._comm = comm
        self.rank: int = 0 if comm is None else comm.Get_rank()
        self.size: int = 1 if comm is None else comm.Get_size()
        expected = os.environ.get("SLURM_NTASKS", "")
        # What keeps the run from starting, for the framework to say.
        self.problem: str | None = None
        if comm is not None and self.size == 1 and expected.isdigit() and int(expected) > 1:
            self.problem = (
                f"Slurm started {expected} tasks but MPI sees one rank: its MPI plugin does not fit; "
                "try srun --mpi=pmi2 or --mpi=pmix"
            )
        self.host = socket.gethostname()
        self.hosts: list[str] = self._gather(self.host)
        if comm is not None:
            _unname_shared_memory()

    @property
    def simulator_ranks(self) -> tuple[int, ...]:
        """Ranks of all simulators."""
        return tuple(range(1, self.size)) if self.size > 1 else (0,)

    @property
    def simulators_here(self) -> int:
        """Simulators on this machine."""
        return sum(self.hosts[rank] == self.host for rank in self.simulator_ranks)

    def is_scheduler(self) -> bool:
        """Whether this rank is the global scheduler."""
        return self.rank == 0

    def is_simulator(self) -> bool:
        """Whether this rank is a simulator."""
        return self.rank in self.simulator_ranks

    def listen_address(self) -> str:
        """The address servers of this rank listen on: loopback unless the run spans machines."""
        if len(set(self.hosts)) == 1:
            return LOOPBACK
        try:
            return socket.gethostbyname(self.host)
        except OSError as error:
            raise FLError(f"host {self.host} has no address: {error}; add it to /etc/hosts") from error

    def share(self, value: Any) -> Any:
        """What rank 0 gives, on every rank.  Only for the start: an MPI call that waits burns a core."""
        return value if self._comm is None else self._comm.bcast(value, root=0)

    def agree(self, problem: str | None) -> str | None:
        """The problem of the lowest rank that has one, on every rank."""
        return next((p for p in self._gather(problem) if p is not None), None)

    def detach(self) -> None:
        """Ends MPI once all know where the scheduler is: from here on the launcher only holds the processes.

        A call that waits in MPI burns a core, a rank that dies leaves the others waiting,
        and a library that is killed leaves its shared memory behind: so nothing of a run
        goes through MPI after its start.
        """
        if self._comm is None:
            return
        from mpi4py import MPI

        self._comm = None
        MPI.Finalize()
        _leave_with(os.getppid())

    def leave(self, code: int) -> None:
        """Ends this process, and never hangs."""
        for output in (sys.stdout, sys.stderr):
            output.flush()
        if self._comm is not None:
            last = threading.Timer(_PATIENCE, os._exit, (code or 1,))
            last.daemon = True
            last.start()
            self.detach()
        os._exit(code)

    def _gather(self, value: Any) -> list[Any]:
        return [value] if self._comm is None else self._comm.allgather(value)


def _unname_shared_memory() -> None:
    """Removes the names of MPICH's shared memory, which it leaves behind when a rank is killed.

    Every rank has it mapped once a first exchange is through; the memory itself goes
    with the last of them.
    """
    with contextlib.suppress(OSError):
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                target = entry.readlink()
                if target.parent == Path("/dev/shm") and target.name.startswith("mpich_shm"):
                    target.unlink()


def _leave_with(parent: int) -> None:
    """Ends this process when its launcher dies: nobody else would."""
    if not hasattr(os, "pidfd_open"):
        return
    handle = os.pidfd_open(parent)

    def watch() -> None:
        select.select([handle], [], [])
        os._exit(1)

    threading.Thread(target=watch, name="launcher", daemon=True).start()
