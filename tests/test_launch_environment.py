"""Which rank of how many a process is, by the variables that launchers really set."""

import pytest

from simulator.launch.launch_environment import Launch, launch_of, launcher_rank, wrong_library
from simulator.shards.environment import shard_environment

HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "3", "PMI_FD": "9", "MPI_LOCALNRANKS": "3", "MPI_LOCALRANKID": "1"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3", "PMIX_RANK": "2"}
# Of Slurm 22.05: what a batch script sees, and what a step adds.
BATCH = {"SLURM_JOB_ID": "4", "SLURM_NTASKS": "3", "SLURM_NPROCS": "3", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
STEP = {**BATCH, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "2"}
PROXY = {**STEP, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}  # mpirun in an allocation starts one a node


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"PMI_RANK": "one"}, None),
        (BATCH, None),
        (HYDRA, ("MPICH's mpirun", 1, 3)),
        ({**PROXY, **HYDRA}, ("MPICH's mpirun", 1, 3)),
        (OPEN_MPI, ("Open MPI's mpirun", 2, 3)),
        ({**PROXY, **OPEN_MPI}, ("Open MPI's mpirun", 2, 3)),
        (STEP, ("srun", 2, 3)),
        ({**STEP, "PMI_RANK": "2", "PMI_SIZE": "3"}, ("srun", 2, 3)),
        ({**STEP, "PMIX_RANK": "2"}, ("srun", 2, 3)),
        ({"PMIX_RANK": "4"}, ("the launcher", 4, None)),
    ],
)
def test_a_process_knows_its_rank_and_how_many_were_started(environ, expected):
    launch = launch_of(environ)
    assert (launch and (launch.launcher, launch.rank, launch.size)) == expected
    assert launcher_rank(environ) == (expected and expected[1])


@pytest.mark.parametrize("environ", [HYDRA, OPEN_MPI, STEP, {**PROXY, **HYDRA}, {"PMIX_RANK": "4"}])
def test_a_shard_is_not_taken_for_a_rank(environ):
    assert launch_of(environ) is not None
    assert launch_of(shard_environment(environ, tune=True)) is None


def test_a_launcher_refuses_the_library_of_another():
    hydra, open_mpi, srun = launch_of(HYDRA), launch_of(OPEN_MPI), launch_of(STEP)
    assert (hydra.refuses("Open MPI"), hydra.refuses("MPICH"), hydra.refuses("Intel MPI")) == (True, False, False)
    assert (open_mpi.refuses("Open MPI"), open_mpi.refuses("MPICH")) == (False, True)
    # An unknown one may fit; what it sees tells.
    assert not hydra.refuses("something new")
    assert not srun.refuses("MPICH")
    assert not srun.refuses("Open MPI")


def test_the_line_names_launcher_library_and_cure():
    line = wrong_library(launch_of(HYDRA), "Open MPI v4.1.4")
    assert line.startswith(
        "MPICH's mpirun started 3 ranks, and mpi4py's library Open MPI v4.1.4 does not see them: take"
    )
    assert "--mpi=pmi2 for MPICH, --mpi=pmix for Open MPI" in wrong_library(launch_of(STEP), "MPICH 5")
    assert "started ranks, and" in wrong_library(Launch("x", 0, None), "y")
