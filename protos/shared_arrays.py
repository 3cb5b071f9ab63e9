"""Named arrays in memory that processes of one machine share.

The memory is an unnamed file (memfd): it has no name to leave behind, and the last
process to go frees it, however it goes.  Another process of the same user finds it by
a handle, told over RPC: whose file descriptor it is, and a random token that the
memory itself begins with, so that a handle never maps anything else.
"""

from __future__ import annotations

import mmap
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protos.codec import Array, Tensors, TensorSpec
from protos.errors import NotFound

_ALIGN = 64
_TOKEN_BYTES = 16


@dataclass(frozen=True)
class MemoryHandle:
    """Where shared memory is.

    Attributes:
        machine: the boot id of the machine.
        pid: of a process that has it open.
        fd: its file descriptor there.
        token: what the memory begins with.
    """

    machine: str
    pid: int
    fd: int
    token: bytes


def unnamed_file(purpose: str) -> int:
    """A file descriptor of an empty file without a name, kept in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(purpose)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def machine_id() -> str:
    """The machine's boot id, "" where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class SharedArrays:
    """Arrays laid out one after the other in a shared file.

    Args:
        fd: of an `unnamed_file`, not closed here.
        specs: names, dtypes and shapes; the same in every process.
        create: whether this process gives the file its size and its token.

    Raises:
        NotFound: the file is smaller than the arrays.
    """

    def __init__(self, fd: int, specs: Mapping[str, TensorSpec], *, create: bool = False) -> None:
        offsets, size = {}, _ALIGN
        for name, spec in specs.items():
            offsets[name] = size
            size += -(-spec.nbytes // _ALIGN) * _ALIGN
        self._fd = fd
        if create:
            os.ftruncate(fd, size)
            os.pwrite(fd, secrets.token_bytes(_TOKEN_BYTES), 0)
        elif os.fstat(fd).st_size < size:
            raise NotFound(f"shared memory of {os.fstat(fd).st_size} bytes cannot hold {size}")
        self._map = mmap.mmap(fd, size)
        self.arrays: Tensors = {name: _view(self._map, spec, offsets[name]) for name, spec in specs.items()}

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def handle(self) -> MemoryHandle:
        """How another process of this machine finds this memory."""
        return MemoryHandle(machine_id(), os.getpid(), self._fd, bytes(self._map[:_TOKEN_BYTES]))

    @classmethod
    def open(cls, handle: MemoryHandle, specs: Mapping[str, TensorSpec]) -> SharedArrays:
        """Maps the memory of a handle.

        Raises:
            NotFound: it is on another machine, gone, another user's, or not what the handle says.
        """
        if not handle.machine or handle.machine != machine_id():
            raise NotFound("the memory is on another machine")
        try:
            fd = os.open(f"/proc/{handle.pid}/fd/{handle.fd}", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise NotFound(f"the memory of process {handle.pid} cannot be opened: {error.strerror}") from error
        try:
            if os.pread(fd, _TOKEN_BYTES, 0) != handle.token or len(handle.token) != _TOKEN_BYTES:
                raise NotFound(f"file descriptor {handle.fd} of process {handle.pid} is not the memory that was told")
            opened = cls(fd, specs)
        finally:
            os.close(fd)
        return opened


def _view(memory: mmap.mmap, spec: TensorSpec, offset: int) -> Array:
    count = spec.nbytes // np.dtype(spec.dtype).itemsize
    if count == 0:
        return np.empty(spec.shape, spec.dtype)
    return np.frombuffer(memory, np.dtype(spec.dtype), count, offset).reshape(spec.shape)
