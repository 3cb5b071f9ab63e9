"""A disk that is full, a folder that is read-only, no room in /dev/shm: one clear line, and nothing left behind."""

import json
import os
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest
from running import ROOT, TIMEOUT, TINY, command, environment
from tiny_task import make_data

from protos.codec import TensorSpec
from protos.errors import FLError
from protos.shared_arrays import SharedArrays, unnamed_file
from simulator.machine.mpi_memory import shared_memory_problem
from simulator.users.scratch import ScratchFolder
from simulator.users.store import UserStore

FLAGS = ["--sample-num", 3, "--shards", 1, "--test-sampler", "none", "--progress", "none"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def inside():
    """Runs a command where folders are small file systems of their own, which only it sees."""
    probe = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True, check=False
    )
    if probe.returncode != 0:
        pytest.skip(f"mounts are not permitted here: {probe.stderr.strip()}")

    def run(folder, options, arguments, **variables):
        """The lines of stderr without mpirun's own, what is left in the folder, and the status."""
        script = f'mount -t tmpfs -o {options} none {folder} || exit 99\n"$@"\nstatus=$?\nls -1 {folder}\nexit $status'
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", *command(TINY, *arguments, ranks=2)],
            env={**environment(), **variables}, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode not in (0, 99), done
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return SimpleNamespace(lines=lines, left=done.stdout, status=done.returncode)

    return run


@pytest.mark.slow
def test_a_disk_that_fills_up_in_the_middle_of_a_run(inside, data, tmp_path):
    # Some 300 bytes a round, and 16 KiB that a start needs.
    done = inside(tmp_path, "size=40k", [data, "--rounds", 400, *FLAGS, "--output", tmp_path / "run"])
    # One line: rank 1 loses its connection, but knows why.
    (line,) = done.lines
    assert line.startswith(f"rank 0: {tmp_path}/run/")
    assert line.endswith("cannot be written: No space left on device; the run cannot keep its record")


def test_a_disk_that_is_full_from_the_start(inside, data, tmp_path):
    (line,) = inside(tmp_path, "size=4k", [data, "--rounds", 1, *FLAGS, "--output", tmp_path / "run"]).lines
    assert line == f"error: --output {tmp_path}/run cannot be written: No space left on device"


def test_a_read_only_output_folder_is_said_before_anything_starts(inside, data, tmp_path):
    done = inside(tmp_path, "ro", [data, "--rounds", 1, *FLAGS, "--output", tmp_path / "run"])
    assert done.lines == [f"error: --output {tmp_path}/run cannot be written: Read-only file system"]
    assert done.status == 2


@pytest.mark.parametrize("size", ["4k", pytest.param("48k", marks=pytest.mark.slow)])
def test_a_full_disk_of_the_store_of_users(inside, data, tmp_path, size):
    """At the start, and when there are users: in the middle of loading, or of the round that is the last."""
    (tmp_path / "small").mkdir()
    arguments = [data, "--rounds", 1, *FLAGS, "--output", tmp_path / "run"]
    done = inside(tmp_path / "small", f"size={size}", arguments, TMPDIR=str(tmp_path / "small"))
    line, *ways_on = done.lines
    assert ways_on in ([], [f"--resume {tmp_path}/run goes on after round 1 of the run"])
    assert size != "4k" or ways_on == []
    assert line.startswith(f"rank 1: the store of users in {tmp_path}/small/flsim-")
    assert line.endswith("cannot be written: the disk is full; free space or point TMPDIR elsewhere")
    assert "flsim" not in done.left


def test_no_room_in_dev_shm_is_said_instead_of_a_bus_error(inside, data, tmp_path):
    done = inside("/dev/shm", "size=1m", [data, "--rounds", 1, *FLAGS, "--output", tmp_path / "run"])
    assert done.lines == [
        "error: /dev/shm has 1024 KiB left; MPI needs 17408 KiB for the 2 ranks of this machine: free some (files "
        "there may be of programs that were killed) or mount it larger"
    ]
    assert done.status == 2
    assert "mpich" not in done.left


def test_who_needs_dev_shm(tmp_path):
    missing = tmp_path / "none"
    assert shared_memory_problem({}, missing) is None
    assert shared_memory_problem({"MPI_LOCALNRANKS": "1"}, missing) is None
    assert "No such file or directory" in shared_memory_problem({"MPI_LOCALNRANKS": "2"}, missing)
    assert shared_memory_problem({"MPI_LOCALNRANKS": "2"}, tmp_path) is None


def test_a_temporary_folder_that_cannot_be_made(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    monkeypatch.setenv("TMPDIR", "/somewhere")
    with pytest.raises(FLError, match=r"no temporary folder can be made in TMPDIR \(/somewhere\): No such file"):
        ScratchFolder()


def test_a_store_that_cannot_be_opened(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FLError, match=r"the store of users in .*file cannot be written: .*Not a directory"):
        UserStore(tmp_path / "file")


def test_no_file_descriptor_is_left_for_shared_memory():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fd = os.dup(0)
    os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (fd, hard))
    try:
        with pytest.raises(FLError, match="shared memory 'test' cannot be made: Too many open files; free memory"):
            unnamed_file("test")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


TAKE = """
import json, resource, signal, sys
from protos.codec import TensorSpec
from protos.errors import FLError
from protos.shared_arrays import SharedArrays, unnamed_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    SharedArrays(unnamed_file("test"), {"w": TensorSpec("int8", (2 << 20,))}, create=True)
except FLError as error:
    print(json.dumps(str(error)))
"""


def test_shared_memory_that_is_not_there_is_an_error_at_once_and_no_bus_error():
    done = subprocess.run([sys.executable, "-c", TAKE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == (
        "2097216 bytes of shared memory cannot be had: File too large; free memory, or raise the limits of memory and "
        "open files of this job"
    )


def test_shared_memory_is_had_when_it_is_made():
    fd = unnamed_file("test")
    SharedArrays(fd, {"w": TensorSpec("int8", (1 << 20,))}, create=True)
    assert os.fstat(fd).st_blocks * 512 >= 1 << 20
    os.close(fd)
