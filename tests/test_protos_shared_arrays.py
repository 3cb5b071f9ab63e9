"""protos/shared_arrays.py, between real processes."""

import dataclasses
import os
import platform
from pathlib import Path

import numpy as np
import pytest
from running import process_with

from protos.codec import TensorSpec
from protos.errors import NotFound
from protos.shared_arrays import MemoryHandle, SharedArrays, unnamed_file

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def fd():
    made = unnamed_file("test")
    yield made
    os.close(made)


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
    with process_with(fd, ADD_ONE) as child:
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
        with process_with(nothing, OPEN_HANDLE, handle.machine, handle.pid, handle.fd, handle.token.hex()) as child:
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


def test_a_stamp_tells_which_arrays_are_there(fd, monkeypatch):
    ours, theirs = SharedArrays(fd, SPECS, create=True), SharedArrays(fd, SPECS)
    assert theirs.stamped(0)
    assert not theirs.stamped(1)
    ours.stamp(2)
    assert theirs.stamped(1)
    assert theirs.stamped(2)
    assert not theirs.stamped(3)
    assert theirs.handle().token == ours.handle().token
    # Where writes may be seen in another order, nothing is known.
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert not SharedArrays(fd, SPECS).stamped(1)
