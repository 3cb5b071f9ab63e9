"""`read_npz`, which reads `--init`: whatever a file holds, one line names it, and nothing in it is run."""

import io
import os
import random
import resource
import struct
import zipfile

import numpy as np
import pytest

from protos.errors import FLError
from simulator.npz import read_npz


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(header, body=b""):
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + body


def archive(method=zipfile.ZIP_STORED, **members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return file.getvalue()


def one_npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


GOOD = npz(w=np.arange(1000.0), b=np.zeros(3, np.float32))
SHAPE = "{'descr': '<f8', 'fortran_order': False, 'shape': (%s,), }"
OBJECTS = one_npy(np.array([{}], object))
FILES = {
    "nothing": (b"", ""),
    "text": (b"no such thing", "objects, not plain arrays"),
    "brackets": (b"[" * 100_000, "objects, not plain arrays"),
    "zeros": (bytes(100_000), "objects, not plain arrays"),
    "half a file": (GOOD[: len(GOOD) // 2], ""),
    "without its end": (GOOD[:-1], ""),
    "one array": (one_npy(np.zeros(3)), "one array without a name; save it with numpy.savez"),
    "one pickled array": (OBJECTS, "objects, not plain arrays"),
    "a pickled array": (archive(**{"w.npy": OBJECTS}), "objects, not plain arrays"),
    "a pickle": (b"\x80\x04K\x01.", "objects, not plain arrays"),
    "a member that is none": (archive(**{"w.npy": b"text"}), "w in it is no array"),
    "a member of no bytes": (archive(**{"w.npy": b""}), ""),
    "a text file": (archive(**{"readme.txt": b"hello"}), "readme.txt in it is no array"),
    "nested headers": (archive(**{"w.npy": npy("[" * 100_000)}), ""),
    "nested headers that are short": (archive(**{"w.npy": npy("(" * 9_000)}), ""),
    "a header that runs": (archive(**{"w.npy": npy("__import__('os').system('touch ran')")}), ""),
    "more than there is": (archive(**{"w.npy": npy(SHAPE % 10**15)}), ""),
    "a negative shape": (archive(**{"w.npy": npy(SHAPE % -3)}), ""),
    "fewer bytes": (archive(**{"w.npy": npy(SHAPE % 8, bytes(63))}), ""),
    "a wrong checksum": (
        archive(**{"w.npy": one_npy(np.arange(9.0))}).replace(struct.pack("<d", 5.0), bytes(8)),
        "CRC",
    ),
}


def refused(path):
    with pytest.raises(FLError) as caught:
        read_npz(path, "--init")
    said = str(caught.value)
    assert said.startswith(f"--init {path}: cannot be read as an NPZ file of arrays: ")
    assert "\n" not in said
    assert len(said) < 600
    return said


@pytest.mark.parametrize(("content", "text"), FILES.values(), ids=list(FILES))
def test_a_damaged_file_is_refused_in_one_line(tmp_path, monkeypatch, content, text):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "start.npz"
    path.write_bytes(content)
    said = refused(path)
    assert text in said
    assert not said.endswith(": ")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_file_with_any_bytes_changed_is_read_or_refused(tmp_path, method):
    good = archive(method, **{"w.npy": one_npy(np.arange(40.0)), "b.npy": one_npy(np.zeros(3, np.float32))})
    chance, path, said = random.Random(0), tmp_path / "start.npz", []
    for _ in range(300):
        damaged = bytearray(good)
        for _ in range(chance.choice([1, 2, 8])):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged[: chance.choice([len(damaged), chance.randrange(len(damaged))])])
        try:
            read = read_npz(path, "--init")
        except FLError as error:
            read = {}
            said.append(str(error))
        assert all(isinstance(value, np.ndarray) for value in read.values())
    assert len(said) > 100
    assert not any("\n" in line for line in said)


def test_a_pipe_is_not_waited_for_and_a_folder_is_none(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        assert "it is no regular file" in refused(path)
    assert "No such file" in refused(tmp_path / "none.npz")


def test_a_file_that_cannot_be_opened_says_why(tmp_path):
    path = tmp_path / "start.npz"
    path.write_bytes(GOOD)
    assert sorted(read_npz(path, "--init")) == ["b", "w"]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        assert "Too many open files" in refused(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
