"""What a launcher tells a rank through its environment, before MPI is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# MPI libraries by the launcher that can start them, as mpi4py names their vendors.
_OPEN_MPI = ("Open MPI", "Spectrum MPI")
_HYDRA = ("MPICH", "MPICH2", "Intel MPI", "MVAPICH", "MVAPICH2", "Cray MPI")


@dataclass(frozen=True)
class Launch:
    """Who started this process, and as which of how many.

    Attributes:
        launcher: what to call it.
        rank: of this process.
        size: ranks that were started; None if the launcher does not tell.
        serves: vendors of the MPI libraries that it can start; empty for any.
    """

    launcher: str
    rank: int
    size: int | None
    serves: tuple[str, ...] = ()

    def refuses(self, vendor: str) -> bool:
        """Whether an MPI library is of another kind than this launcher's."""
        others = {*_OPEN_MPI, *_HYDRA} - set(self.serves)
        return bool(self.serves) and vendor in others


def launch_of(environ: Mapping[str, str]) -> Launch | None:
    """The launch that this process is a rank of; None if no launcher started it.

    A Slurm batch script or an interactive allocation has variables of its job, but is no rank:
    only `srun` makes a step.

    Args:
        environ: of this process.
    """

    def number(name: str) -> int | None:
        value = environ.get(name, "")
        return int(value) if value.isdigit() else None

    rank = number("OMPI_COMM_WORLD_RANK")
    if rank is not None:
        return Launch("Open MPI's mpirun", rank, number("OMPI_COMM_WORLD_SIZE"), _OPEN_MPI)
    step = number("SLURM_STEP_ID") is not None
    rank = number("PMI_RANK")
    # mpirun within an allocation starts its proxies with srun, but each rank itself.
    if rank is not None and ("MPI_LOCALNRANKS" in environ or not step):
        return Launch("MPICH's mpirun", rank, number("PMI_SIZE"), _HYDRA)
    if rank is None:
        rank = number("SLURM_PROCID") if step else number("PMIX_RANK")
    if rank is None:
        return None
    if step:
        return Launch("srun", rank, number("SLURM_STEP_NUM_TASKS"))
    return Launch("the launcher", rank, number("PMI_SIZE"))


def launcher_rank(environ: Mapping[str, str]) -> int | None:
    """The rank a launcher gave this process, None without a launcher; needs no MPI."""
    launch = launch_of(environ)
    return None if launch is None else launch.rank


def wrong_library(launch: Launch, library: str) -> str:
    """What is wrong where a launcher and the MPI library do not belong together, in one line.

    Args:
        launch: of this process.
        library: what the library calls itself.
    """
    if launch.launcher == "srun":
        cure = "its MPI plugin does not fit: try srun --mpi=pmi2 for MPICH, --mpi=pmix for Open MPI"
    elif launch.serves == _OPEN_MPI:
        cure = "set MPI4PY_MPIABI=openmpi, or take the mpirun that belongs to this library"
    else:
        cure = "take the mpirun that belongs to this library, or leave MPI4PY_MPIABI unset and pip install mpich"
    ranks = "ranks" if launch.size is None else f"{launch.size} ranks"
    return f"{launch.launcher} started {ranks}, and mpi4py's library {library} does not see them: {cure}"
