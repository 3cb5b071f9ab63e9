"""simulator/work_queue.py and simulator/shared_arrays.py, between real processes."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from protos.codec import TensorSpec
from simulator.shared_arrays import SharedArrays, unnamed_file
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
    "w": TensorSpec("float32", (3, 5)),
    "empty": TensorSpec("float64", (0, 2)),
    "flag": TensorSpec("bool", (1,)),
    "total": TensorSpec("int64", (2,)),
    "scalar": TensorSpec("float64", ()),
}


def test_arrays_have_their_specs_start_at_zero_and_do_not_overlap(fd):
    shared = SharedArrays(fd, SPECS, create=True)
    assert {name: TensorSpec.of(array) for name, array in shared.arrays.items()} == SPECS
    assert all(not array.any() for array in shared.arrays.values())
    shared["w"][...] = np.arange(15).reshape(3, 5)
    shared["flag"][0] = True
    shared["total"][:] = [-1, 2**62]
    shared["scalar"][...] = 0.5
    assert shared["w"].ravel().tolist() == list(range(15))
    assert (shared["flag"].tolist(), shared["total"].tolist(), shared["scalar"].item()) == ([True], [-1, 2**62], 0.5)
    assert all(array.ctypes.data % 64 == 0 for array in shared.arrays.values() if array.size)


def test_no_arrays_can_be_shared_too(fd):
    assert SharedArrays(fd, {}, create=True).arrays == {}


ADD_ONE = """
import sys
from protos.codec import TensorSpec
from simulator.shared_arrays import SharedArrays
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
