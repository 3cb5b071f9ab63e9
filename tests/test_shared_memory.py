"""simulator/work_queue.py and protos/shared_arrays.py, between real processes."""

import dataclasses
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from protos.codec import TensorSpec
from protos.errors import NotFound
from protos.shared_arrays import MemoryHandle, SharedArrays, unnamed_file
from simulator.work_queue import WorkQueue

ROOT = Path(__file__).resolve().parent.parent
WAIT = 20


@pytest.fixture
def fd():
    made = unnamed_file("test")
    yield made
    os.close(made)


@contextmanager
def process(code, fd, *arguments):
    """Runs Python code that gets a file descriptor; it says it is ready by a line, and goes on after one."""
    command = [sys.executable, "-c", code, str(fd), *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, pass_fds=[fd], **pipes) as child:
        try:
            yield child
        finally:
            child.kill()


# -- the work queue ----------------------------------------------------------------


def test_jobs_are_handed_out_in_order_and_once(fd):
    queue = WorkQueue(fd)
    queue.fill(4)
    assert [queue.take(7), queue.take(8), queue.take(7), queue.take(7), queue.take(8)] == [0, 1, 2, 3, None]
    assert (queue.taken_by(7), queue.taken_by(8), queue.taken_by(9)) == ([0, 2, 3], [1], [])


def test_a_queue_starts_over(fd):
    queue = WorkQueue(fd)
    queue.fill(3)
    queue.take(1)
    queue.fill(1)
    assert queue.taken_by(1) == []
    assert [queue.take(0), queue.take(0)] == [0, None]
    queue.fill(0)
    assert queue.take(0) is None


TAKE_ALL = """
import sys
from simulator.work_queue import WorkQueue
queue, shard = WorkQueue(int(sys.argv[1])), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
taken = []
while (job := queue.take(shard)) is not None:
    taken.append(job)
print(*taken, flush=True)
"""


def test_several_processes_take_every_job_exactly_once(fd):
    jobs = 5000
    queue = WorkQueue(fd)
    queue.fill(jobs)
    with process(TAKE_ALL, fd, 0) as a, process(TAKE_ALL, fd, 1) as b, process(TAKE_ALL, fd, 2) as c:
        for child in (a, b, c):
            assert child.stdout.readline() == "ready\n"
        for child in (a, b, c):
            child.stdin.write("\n")
            child.stdin.flush()
        taken = [[int(job) for job in child.stdout.readline().split()] for child in (a, b, c)]
        assert [child.wait(WAIT) for child in (a, b, c)] == [0, 0, 0]
    assert sorted(job for mine in taken for job in mine) == list(range(jobs))
    assert [queue.taken_by(shard) for shard in range(3)] == taken
    assert queue.take(9) is None


HOLD_LOCK = """
import fcntl, sys
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX)
print("ready", flush=True)
sys.stdin.readline()
"""


def test_a_shard_that_dies_with_the_lock_stops_nobody(fd):
    queue = WorkQueue(fd)
    queue.fill(1)
    with process(HOLD_LOCK, fd) as holder:
        assert holder.stdout.readline() == "ready\n"
        with process(TAKE_ALL, fd, 3) as waiting:
            assert waiting.stdout.readline() == "ready\n"
            waiting.stdin.write("\n")
            waiting.stdin.flush()
            holder.kill()
            assert waiting.stdout.readline() == "0\n"


# -- shared arrays -----------------------------------------------------------------

SPECS = {
    "w": TensorSpec("float32", (5, 7)),
    "empty": TensorSpec("float64", (0, 2)),
    "flag": TensorSpec("bool", (1,)),
    "total": TensorSpec("int64", (2,)),
    "scalar": TensorSpec("float64", ()),
}


def test_arrays_have_their_specs_start_at_zero_and_do_not_overlap(fd):
    shared = SharedArrays(fd, SPECS, create=True)
    assert {name: TensorSpec.of(array) for name, array in shared.arrays.items()} == SPECS
    assert all(not array.any() for array in shared.arrays.values())
    shared["w"][...] = np.arange(35).reshape(5, 7)
    shared["flag"][0] = True
    shared["total"][:] = [-1, 2**62]
    shared["scalar"][...] = 0.5
    assert shared["w"].ravel().tolist() == list(range(35))
    assert (shared["flag"].tolist(), shared["total"].tolist(), shared["scalar"].item()) == ([True], [-1, 2**62], 0.5)
    assert all(array.ctypes.data % 64 == 0 for array in shared.arrays.values() if array.size)


def test_no_arrays_can_be_shared_too(fd):
    assert SharedArrays(fd, {}, create=True).arrays == {}


ADD_ONE = """
import sys
from protos.codec import TensorSpec
from protos.shared_arrays import SharedArrays
shared = SharedArrays(int(sys.argv[1]), {"a": TensorSpec("int8", (3,)), "w": TensorSpec("float32", (4,))})
print("ready", flush=True)
sys.stdin.readline()
shared["w"][...] += 1
print(shared["a"].tolist(), flush=True)
sys.stdin.readline()
"""


def test_processes_see_what_the_other_writes(fd):
    specs = {"a": TensorSpec("int8", (3,)), "w": TensorSpec("float32", (4,))}
    shared = SharedArrays(fd, specs, create=True)
    with process(ADD_ONE, fd) as child:
        assert child.stdout.readline() == "ready\n"
        shared["a"][:] = [1, 2, 3]
        shared["w"][:] = 0.5
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "[1, 2, 3]\n"
        assert shared["w"].tolist() == [1.5] * 4


# -- memory of another process ------------------------------------------------------

FOUR = {"w": TensorSpec("float32", (4,))}

OPEN_HANDLE = """
import sys
from protos.codec import TensorSpec
from protos.shared_arrays import MemoryHandle, SharedArrays
machine, pid, fd, token = sys.argv[2:]
handle = MemoryHandle(machine, int(pid), int(fd), bytes.fromhex(token))
shared = SharedArrays.open(handle, {"w": TensorSpec("float32", (4,))})
print(shared["w"].tolist(), flush=True)
shared["w"][...] *= 2
print("done", flush=True)
"""


def test_a_process_that_inherits_nothing_finds_memory_by_its_handle(fd):
    shared = SharedArrays(fd, FOUR, create=True)
    shared["w"][:] = [1, 2, 3, 4]
    handle = shared.handle()
    assert (handle.pid, handle.fd, len(handle.token)) == (os.getpid(), fd, 16)
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        with process(OPEN_HANDLE, nothing, handle.machine, handle.pid, handle.fd, handle.token.hex()) as child:
            assert child.stdout.readline() == "[1.0, 2.0, 3.0, 4.0]\n"
            assert child.stdout.readline() == "done\n"
    finally:
        os.close(nothing)
    assert shared["w"].tolist() == [2, 4, 6, 8]


def test_opened_memory_outlives_its_file_descriptor():
    fd = unnamed_file("test")
    shared = SharedArrays(fd, FOUR, create=True)
    opened = SharedArrays.open(shared.handle(), FOUR)
    os.close(fd)
    opened["w"][0] = 5
    assert shared["w"].tolist() == [5, 0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"machine": "another"}, "on another machine"),
        ({"machine": ""}, "on another machine"),
        ({"token": bytes(16)}, "is not the memory that was told"),
        ({"token": b""}, "is not the memory that was told"),
        ({"fd": 1_000_000}, "cannot be opened: No such file"),
        ({"pid": 2**22 + 1}, "cannot be opened: No such file"),
    ],
)
def test_a_handle_that_is_not_true_is_refused(fd, changes, message):
    handle = SharedArrays(fd, FOUR, create=True).handle()
    with pytest.raises(NotFound, match=message):
        SharedArrays.open(dataclasses.replace(handle, **changes), FOUR)


def test_the_file_of_another_is_not_taken_for_the_memory(tmp_path, fd):
    handle = SharedArrays(fd, FOUR, create=True).handle()
    (tmp_path / "file").write_bytes(bytes(4096))
    with (tmp_path / "file").open("r+b") as other, pytest.raises(NotFound, match="not the memory that was told"):
        SharedArrays.open(MemoryHandle(handle.machine, handle.pid, other.fileno(), handle.token), FOUR)


def test_memory_that_is_too_small_is_refused(fd):
    handle = SharedArrays(fd, FOUR, create=True).handle()
    larger = {"w": TensorSpec("float32", (400,))}
    with pytest.raises(NotFound, match="shared memory of 128 bytes cannot hold 1664"):
        SharedArrays.open(handle, larger)
    with pytest.raises(NotFound, match="cannot hold"):
        SharedArrays(fd, larger)


def test_no_descriptor_is_left_open_by_a_handle(fd):
    handle = SharedArrays(fd, FOUR, create=True).handle()
    before = open_files()
    with pytest.raises(NotFound):
        SharedArrays.open(dataclasses.replace(handle, token=bytes(16)), FOUR)
    with pytest.raises(NotFound):
        SharedArrays.open(handle, {"w": TensorSpec("float32", (400,))})
    assert open_files() == before


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))
