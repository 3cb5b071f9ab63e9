"""Under Open MPI's mpirun: the same bits as under MPICH's, failures that end, and no bars in a log."""

import os
import re
import shutil
import signal
import time

import psutil
import pytest
from running import TINY, kill_all, params, read_until, run, same, start
from tiny_task import make_data

RUN = ["--rounds", 3, "--sample-num", 5, "--private", "out.bias"]
# From the death of a rank to the end of mpirun.
BOUND = 20.0


def mpirun(ranks):
    """The beginning of a command line; root must say that it means it."""
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return ["mpirun.openmpi", *root, "--oversubscribe", "--bind-to", "none", "-np", str(ranks)]


@pytest.fixture(autouse=True)
def open_mpi(monkeypatch):
    if shutil.which("mpirun.openmpi") is None:
        pytest.skip("Open MPI is not installed here (Debian's package is openmpi-bin)")
    # mpi4py's wheel takes the first MPI it finds, which in a test environment is MPICH's.
    monkeypatch.setenv("MPI4PY_MPIABI", "openmpi")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.mark.slow
def test_the_bits_are_those_of_one_process_and_of_mpich(data, tmp_path, monkeypatch):
    done = run(TINY, data, *RUN, "--output", tmp_path / "open", mpirun=mpirun(3))
    assert "2 simulators" in done.stdout
    # Open MPI gives rank 0 a terminal; this output goes to a pipe.
    assert "\x1b" not in done.stdout
    assert " round 1/3 " in done.stdout
    monkeypatch.delenv("MPI4PY_MPIABI")
    run(TINY, data, *RUN, "--output", tmp_path / "mpich", ranks=2)
    run(TINY, data, *RUN, "--output", tmp_path / "one")
    assert same(params(tmp_path / "open"), params(tmp_path / "one"))
    assert same(params(tmp_path / "mpich"), params(tmp_path / "one"))


@pytest.mark.slow
def test_a_mistake_in_user_code_ends_the_run_with_its_traceback(data, tmp_path):
    trouble = ["--trouble", "raise", "--trouble-uid", "user000", "--sample-num", 12]
    done = run(TINY, data, *RUN, *trouble, "--output", tmp_path, mpirun=mpirun(3), check=False)
    assert done.returncode == 1
    assert done.stderr.count("RuntimeError: a mistake in user code") == 1


@pytest.mark.slow
def test_a_simulator_that_is_killed_ends_the_run_in_seconds(data, tmp_path):
    process = start(TINY, data, *RUN, "--rounds", 1_000_000, "--output", tmp_path, mpirun=mpirun(3))
    try:
        with process.stdout as output:
            read_until(process, " round ")
            ranks = {
                rank: child
                for child in psutil.Process(process.pid).children()
                if (rank := child.environ().get("OMPI_COMM_WORLD_RANK")) is not None
            }
            ranks["2"].send_signal(signal.SIGKILL)
            began = time.monotonic()
            said = output.read()
            process.wait(BOUND)
        assert time.monotonic() - began < BOUND
        assert process.returncode != 0
        assert re.search(r"rank 2 is gone|rank 2 with PID \d+ .*signal 9|process rank 2 .* signal 9", said), said
    finally:
        kill_all(process) if psutil.pid_exists(process.pid) else None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("abi", "begin", "line"),
    [
        (None, mpirun(2), "error: Open MPI's mpirun started 2 ranks, and mpi4py's library MPICH"),
        ("openmpi", ["mpirun", "-np", "2"], "error: MPICH's mpirun started 2 ranks, and mpi4py's library Open MPI"),
    ],
    ids=["MPICH's library", "Open MPI's library"],
)
def test_the_mpirun_of_another_mpi_starts_no_runs_of_one_rank(data, tmp_path, monkeypatch, abi, begin, line):
    if shutil.which("mpirun") is None or "openmpi" in os.path.realpath(shutil.which("mpirun")):
        pytest.skip("MPICH is not installed here beside Open MPI (pip install mpich)")
    if abi is None:
        monkeypatch.delenv("MPI4PY_MPIABI")
    done = run(TINY, data, *RUN, "--output", tmp_path / "out", mpirun=begin, check=False)
    assert done.returncode == 2
    assert done.stderr.count(line) == 1
    assert done.stderr.count("error: ") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_cores_that_open_mpi_keeps_away_are_told(data, tmp_path):
    """Two ranks are tied to a core each, unless told otherwise."""
    if os.cpu_count() < 2:
        pytest.skip("one core cannot be halved")
    begin = [word for word in mpirun(2) if word not in ("--bind-to", "none")]
    done = run(TINY, data, *RUN, "--output", tmp_path, mpirun=begin)
    assert f"Open MPI's mpirun lets this rank run on 1 of the machine's {os.cpu_count()} cores" in done.stderr
    assert "--bind-to none gives it all" in done.stderr
