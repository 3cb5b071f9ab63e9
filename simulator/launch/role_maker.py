"""Which part each MPI rank plays.  The only module that touches mpi4py, and only when a launcher started the run."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from protos.certificates import Credentials, certify, make_key
from protos.gate import TICKET_BYTES, Gate, Keys
from protos.sockets import UNIX
from simulator.launch.addresses import LOOPBACK, choose_address, is_here, own_addresses, place, temporary_folder
from simulator.launch.launch_environment import Launch, launch_of, wrong_library
from simulator.launch.launcher import cancel_step_later, end_launcher_later, leave_with
from simulator.machine.cores import cores_for_shards, cpu_limit, out_of_reach, own_cores
from simulator.machine.mpi_memory import leave_without_shared_memory

logger = logging.getLogger(__name__)

# How long the other ranks get to end MPI together with this one.
_PATIENCE = 3.0


class FLSimRoleMaker:
    """Rank 0 is the scheduler, every other rank a simulator; a single rank is both.

    Args:
        comm: an MPI communicator; None for COMM_WORLD if a launcher started several
            processes, and for a run of one rank if not.
        alone: whether this process is a run of one rank, whoever launched it.

    Raises:
        SystemExit: MPI cannot start, or does not see the other ranks.
    """

    def __init__(self, comm: Any = None, *, alone: bool = False) -> None:
        launch = None if alone else launch_of(os.environ)
        if comm is None and launch is not None and launch.size != 1:
            leave_without_shared_memory(os.environ)
            comm = _start_mpi(launch)
        self._comm = comm
        # Who started this rank; None for nobody but its user.
        self.launcher: str | None = None if launch is None else launch.launcher
        self.rank: int = 0 if comm is None else comm.Get_rank()
        self.size: int = 1 if comm is None else comm.Get_size()
        self.host = socket.gethostname()
        told = self._gather([self.host, place(), own_cores(), *temporary_folder()])
        self.hosts: list[str] = [each[0] for each in told]
        self._places: list[str] = [each[1] for each in told]
        self._cores: list[list[int]] = [each[2] for each in told]
        # Whether all ranks can meet at Unix sockets: on one host, and with one view of its files.
        self._together = all(self._gather(all(is_here(folder, identity) for *_, folder, identity in told)))
        self._together = self._together and not self.spans_hosts
        self._address = LOOPBACK
        self._key: tuple[bytes, bytes] | None = None
        # Who is let in by the servers of this rank, and what lets this rank in elsewhere, after `secure`.
        self.gate = Gate(self.simulator_ranks)
        self.keys = Keys(self.rank, {})
        if comm is not None:
            _unname_shared_memory()

    @property
    def simulator_ranks(self) -> tuple[int, ...]:
        """Ranks of all simulators."""
        return tuple(range(1, self.size)) if self.size > 1 else (0,)

    def cores_for_shards(self) -> int:
        """Cores that this simulator has for its shards; it shares the machine with the other simulators there."""
        here = [rank for rank in self.simulator_ranks if self._places[rank] == self._places[self.rank]]
        others = [self._cores[rank] for rank in here if rank != self.rank]
        return cores_for_shards(self._cores[self.rank], others, cpu_limit())

    def cores_out_of_reach(self) -> str | None:
        """A line on cores that the launcher keeps from this rank, if it keeps half of them or more."""
        return out_of_reach(self._cores[self.rank], os.cpu_count() or 1, self.launcher)

    @property
    def spans_hosts(self) -> bool:
        """Whether some ranks cannot reach others over loopback."""
        return len(set(self._places)) > 1

    def is_scheduler(self) -> bool:
        """Whether this rank is the global scheduler."""
        return self.rank == 0

    def is_simulator(self) -> bool:
        """Whether this rank is a simulator."""
        return self.rank in self.simulator_ranks

    def prepare_network(self, interface: str | None) -> None:
        """Finds this rank's address, and makes its key, unless all ranks meet at Unix sockets.

        Args:
            interface: name, address or network to choose by; None for the default.

        Raises:
            FLError: there is no such address, or cryptography is missing.
        """
        if interface is not None or self.spans_hosts:
            address = choose_address(interface, self.host, own_addresses())
            if self.spans_hosts:
                self._address = address
        if not self._together:
            self._key = make_key()

    def secure(self) -> None:
        """Gets this rank what opens the other ranks' servers; comes after `prepare_network`, on all."""
        self.keys = Keys(self.rank, self._trade_tickets(), self._certificate())

    def _trade_tickets(self) -> dict[int, bytes]:
        """Hands each rank its ticket at this rank's server, and nobody else; returns this rank's own, by server."""
        mine = np.zeros((self.size, TICKET_BYTES), np.uint8)
        for rank in self.simulator_ranks:
            mine[rank] = np.frombuffer(self.gate.ticket(rank) or b"", np.uint8)
        theirs = mine
        if self._comm is not None:
            theirs = np.empty_like(mine)
            self._comm.Alltoall(mine, theirs)
        return {server: ticket.tobytes() for server, ticket in enumerate(theirs)} if self.is_simulator() else {}

    def _certificate(self) -> Credentials | None:
        """This rank's certificate, where there is more than Unix sockets."""
        if self._key is None:
            return None
        private, public = self._key
        public_keys = [text.encode() for text in self._gather(public.decode())]
        made = None
        if self.is_scheduler():
            ca, certificates = certify(public_keys)
            made = [ca.decode(), [certificate.decode() for certificate in certificates]]
        ca_text, texts = self.share(made)
        self._key = None
        return Credentials(ca_text.encode(), texts[self.rank].encode(), private)

    def where_to_listen(self, folder: Path) -> str:
        """What a server of this rank listens on, see `make_server`.

        Args:
            folder: that only this user can enter; a Unix socket is in it.
        """
        return f"{UNIX}{folder / 'socket'}" if self._together else self._address

    def share(self, value: Any) -> Any:
        """What rank 0 gives (anything that JSON holds), on every rank.

        Only for the start: an MPI call that waits burns a core.
        """
        if self._comm is None:
            return value
        # As JSON and not by mpi4py's own way, which would unpickle what came from another host.
        raw = np.frombuffer(json.dumps(value).encode(), np.uint8).copy()
        size = np.array([raw.size], np.int64)
        self._comm.Bcast(size, root=0)
        if not self.is_scheduler():
            raw = np.empty(size[0], np.uint8)
        self._comm.Bcast(raw, root=0)
        return json.loads(raw.tobytes())

    def agree(self, problem: str | None) -> str | None:
        """The problem of the lowest rank that has one, on every rank."""
        return next((p for p in self._gather(problem) if p is not None), None)

    def refuse(self, problem: str, code: int) -> NoReturn:
        """Ends this process before the run begins; the other ranks, which begin it, learn why.

        Args:
            problem: of this rank; rank 0 has said its own.
            code: exit status.
        """
        # As a framework begins: rank 0 tells what it was told, then everybody its problem.
        self.share(None)
        self.agree(f"rank {self.rank}: {problem}")
        self.leave_together(code)

    def leave_together(self, code: int) -> NoReturn:
        """Ends this process when all ranks end theirs, before anything is started.

        Not with `leave`: MPICH's launcher takes a process that ends abruptly after MPI has for
        one that was killed, now and then, and kills the others.
        """
        if self._comm is not None:
            self._end_soon(code)
            self.detach()
        raise SystemExit(code)

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
        leave_with(os.getppid())

    def leave(self, code: int) -> None:
        """Ends this process, and never hangs."""
        for output in (sys.stdout, sys.stderr):
            output.flush()
        if code and self.spans_hosts:
            end_launcher_later(_PATIENCE)
            if self.launcher == "srun":
                cancel_step_later(_PATIENCE, os.environ)
        if self._comm is not None:
            self._end_soon(code)
            self.detach()
        os._exit(code)

    def _end_soon(self, code: int) -> None:
        """Ends this process in a while, should the other ranks not end MPI with it."""
        last = threading.Timer(_PATIENCE, os._exit, (code or 1,))
        last.daemon = True
        last.start()

    def _gather(self, value: Any) -> list[Any]:
        """What each rank gives (anything that JSON holds), on every rank."""
        if self._comm is None:
            return [value]
        raw = np.frombuffer(json.dumps(value).encode(), np.uint8)
        sizes = np.empty(self.size, np.int64)
        self._comm.Allgather(np.array([raw.size], np.int64), sizes)
        gathered = np.empty(sizes.sum(), np.uint8)
        self._comm.Allgatherv(raw, [gathered, sizes])
        ends = np.cumsum(sizes)
        return [json.loads(gathered[end - size : end].tobytes()) for size, end in zip(sizes, ends, strict=True)]


def _start_mpi(launch: Launch) -> Any:
    """COMM_WORLD of all ranks that were started.

    Raises:
        SystemExit: the MPI library is not the launcher's: each rank would be alone, and a run of its own.
    """
    # Here and not at the top: a shard imports this module too and must not start MPI.
    import mpi4py

    mpi4py.rc.initialize = False
    with warnings.catch_warnings():
        # mpi4py's own words on a launcher that does not fit; the line below says more.
        warnings.simplefilter("ignore", RuntimeWarning)
        from mpi4py import MPI

    library = MPI.Get_library_version().strip().splitlines()[0].strip(" \0").split(",")[0]
    library = " ".join(library.split())
    fits = not launch.refuses(MPI.get_vendor()[0])
    if fits:
        if not MPI.Is_initialized():
            MPI.Init_thread()
        fits = MPI.COMM_WORLD.Get_size() > 1 or launch.size is None
    if not fits:
        if launch.rank == 0:
            sys.stderr.write(f"error: {wrong_library(launch, library)}\n")
        if MPI.Is_initialized():
            MPI.Finalize()
        raise SystemExit(2)
    return MPI.COMM_WORLD


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
