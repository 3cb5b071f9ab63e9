"""The environment a shard starts in: what bits depend on, and the settings that make Paddle fast on a CPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from simulator.machine.malloc_arenas import ARENAS

# glibc gives large blocks back to the system and takes them again at every step,
# with a page fault for each page; keeping them saves a third of a step.  rank_memory.py tells of arenas.
_KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "2000000000",
    "MALLOC_TRIM_THRESHOLD_": "2000000000",
    "MALLOC_TOP_PAD_": "67108864",
    "MALLOC_ARENA_MAX": str(ARENAS),
}
# On these the bits of a result depend, so they are the same in every run, whatever the user has set.  A set of
# strings is walked in the order of their hashes, which Python draws anew in each process unless it is told a seed.
_FIXED = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}
# By these, an MPI library takes a process for a rank; what a user has set for MPI begins otherwise.
_OF_A_RANK = ("PMI_", "PMIX_", "OMPI_COMM_WORLD_", "HYDI_", "MPI_LOCAL")
# By these, a launcher finds the hosts of a job.
_ALLOCATIONS = ("SLURM_", "PBS_", "LSB_", "PE_HOSTFILE")
_LAUNCHERS = ("PMI_", "PMIX_", "OMPI_", "MPI", "HYDRA", "HYDI_", "SLURM_PROCID", "SLURM_STEP")


def shard_environment(environ: Mapping[str, str], *, tune: bool, cpu: str | None = None) -> dict[str, str]:
    """The variables of a shard.

    A variable that the user has set is left as it is, but for the number of threads and the seed of
    Python's hashes: others would give other bits, and the record would not tell why.

    Args:
        environ: the simulator's variables.
        tune: whether to add the settings for speed.
        cpu: the CPU's vendor; read from the machine if None.
    """
    # A shard is no MPI rank and must not be taken for one.
    shard = {name: value for name, value in environ.items() if not name.startswith(_LAUNCHERS)}
    shard.update(_FIXED)
    shard["PYTHONPATH"] = import_path()
    # Paddle asks for a GPU it does not need here.
    shard.setdefault("CUDA_VISIBLE_DEVICES", "")
    if tune:
        for name, value in _KEEP_MEMORY.items():
            shard.setdefault(name, value)
        # Paddle's MKL takes its slowest path on AMD's CPUs unless told that they have AVX2.
        if (cpu or cpu_vendor()) == "AuthenticAMD":
            shard.setdefault("MKL_DEBUG_CPU_TYPE", "5")
    return shard


def launchable_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of an `mpirun` on this machine, whoever has launched this process.

    Args:
        environ: of this process.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith((*_OF_A_RANK, *_ALLOCATIONS))}
    kept["PYTHONPATH"] = import_path()
    # Open MPI's own are beside MPICH's, which does not know them: a shard has a core, whoever the launcher gives it to.
    kept.setdefault("OMPI_MCA_rmaps_base_oversubscribe", "1")
    kept.setdefault("OMPI_MCA_hwloc_base_binding_policy", "none")
    return kept


def import_path() -> str:
    """Where this process finds what it imports, as PYTHONPATH."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)  # noqa: PTH109


def cpu_vendor() -> str:
    """The CPU's vendor as it calls itself, "" if the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")), "")
