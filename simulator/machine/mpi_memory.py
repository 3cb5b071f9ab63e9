"""Whether MPI finds the shared memory that it needs, asked before MPI is started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

# MPICH takes 5.2 MiB a rank and 1 MiB a pair of ranks; with less it ends by a bus error or a broken pointer.
BYTES_A_RANK, BYTES_A_PAIR = 6 << 20, 5 << 18


def shared_memory_problem(environ: Mapping[str, str], folder: Path = Path("/dev/shm")) -> str | None:
    """What is wrong with this machine's /dev/shm, in one line; None if nothing, or if MPI is not MPICH's.

    Args:
        environ: of this process; MPICH's launcher tells how many ranks the machine has.
        folder: where shared memory is mounted.
    """
    ranks = environ.get("MPI_LOCALNRANKS", "")
    if not ranks.isdigit() or int(ranks) < 2:
        return None
    try:
        found = os.statvfs(folder)
    except OSError as error:
        return f"{folder}: {error.strerror}; MPI needs shared memory there"
    free, need = found.f_bavail * found.f_frsize, int(ranks) * (BYTES_A_RANK + int(ranks) * BYTES_A_PAIR)
    if free >= need:
        return None
    return (
        f"{folder} has {free >> 10} KiB left; MPI needs {need >> 10} KiB for the {ranks} ranks of this machine: free "
        "some (files there may be of programs that were killed) or mount it larger"
    )


def leave_without_shared_memory(environ: Mapping[str, str]) -> None:
    """Ends this rank if MPI cannot start; the first rank of the machine says why.

    Raises:
        SystemExit: 2.
    """
    problem = shared_memory_problem(environ)
    if problem is None:
        return
    if environ.get("MPI_LOCALRANKID", "0") == "0":
        os.write(2, f"error: {problem}\n".encode())
    raise SystemExit(2)
