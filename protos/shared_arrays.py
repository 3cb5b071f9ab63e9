"""Named arrays in memory that processes of one machine share.

The memory is an unnamed file (memfd): it has no name to leave behind, and the last
process to go frees it, however it goes.  Another process of the same user finds it by
a handle, told over RPC: whose file descriptor it is, and a random token that the
memory itself begins with, so that a handle never maps anything else.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import platform
import secrets
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protos.codec import Array, Tensors, TensorSpec
from protos.errors import FLError, NotFound

_ALIGN = 64
_TOKEN_BYTES = 16
# Machines on which a process sees another's writes in the order in which they were made.
_IN_ORDER = ("x86_64", "AMD64")
_REMEDY = "free memory, or raise the limits of memory and open files of this job"


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
    """A file descriptor of an empty file without a name, kept in memory where the system can.

    Raises:
        FLError: there is no memory or no file descriptor for it.
    """
    try:
        if hasattr(os, "memfd_create"):
            return os.memfd_create(purpose, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    except OSError as error:
        raise FLError(f"shared memory {purpose!r} cannot be made: {error.strerror}; {_REMEDY}") from error


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
        FLError: there is no memory for them.
    """

    def __init__(self, fd: int, specs: Mapping[str, TensorSpec], *, create: bool = False) -> None:
        offsets, size = {}, _ALIGN
        for name, spec in specs.items():
            offsets[name] = size
            size += -(-spec.nbytes // _ALIGN) * _ALIGN
        self._fd = fd
        if create:
            _give_size(fd, size)
            os.pwrite(fd, secrets.token_bytes(_TOKEN_BYTES), 0)
        elif os.fstat(fd).st_size < size:
            raise NotFound(f"shared memory of {os.fstat(fd).st_size} bytes cannot hold {size}")
        try:
            self._map = mmap.mmap(fd, size)
        except OSError as error:
            raise FLError(f"{size} bytes of shared memory cannot be mapped: {error.strerror}; {_REMEDY}") from error
        self.arrays: Tensors = {name: _view(self._map, spec, offsets[name]) for name, spec in specs.items()}
        self._stamp = np.frombuffer(self._map, np.int64, 1, _TOKEN_BYTES)
        self._in_order = platform.machine() in _IN_ORDER

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def stamp(self, number: int) -> None:
        """Tells all who map this memory that the arrays now are those of this number."""
        self._stamp[0] = number

    def stamped(self, number: int) -> bool:
        """Whether the arrays are known to be those of this number or a later one; False where it cannot be told."""
        return self._in_order and bool(self._stamp[0] >= number)

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
        path = Path(f"/proc/{handle.pid}/fd/{handle.fd}")
        try:
            # Looked at before it is opened: opening a device or a pipe may do something or wait.
            if not stat.S_ISREG(path.stat().st_mode):
                raise _not_told(handle)
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            raise NotFound(f"the memory of process {handle.pid} cannot be opened: {error.strerror}") from error
        try:
            if not _cannot_shrink(fd) or len(handle.token) != _TOKEN_BYTES:
                raise _not_told(handle)
            if os.pread(fd, _TOKEN_BYTES, 0) != handle.token:
                raise _not_told(handle)
            opened = cls(fd, specs)
        finally:
            os.close(fd)
        return opened


def _not_told(handle: MemoryHandle) -> NotFound:
    return NotFound(f"file descriptor {handle.fd} of process {handle.pid} is not the memory that was told")


def _give_size(fd: int, size: int) -> None:
    """Gives a file its size and its memory.

    Now and not page by page: what is missing is then an error here and not a SIGBUS in
    the middle of a round.  Nobody can shrink it after that, which would be one as well.
    """
    try:
        os.ftruncate(fd, size)
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        raise FLError(f"{size} bytes of shared memory cannot be had: {error.strerror}; {_REMEDY}") from error
    with contextlib.suppress(OSError):  # an ordinary file, where the system has no memory files
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)


def _cannot_shrink(fd: int) -> bool:
    """Whether a file is memory that is sealed as `_give_size` does; an ordinary file has no seals."""
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:
        return False


def _view(memory: mmap.mmap, spec: TensorSpec, offset: int) -> Array:
    count = spec.nbytes // np.dtype(spec.dtype).itemsize
    if count == 0:
        return np.empty(spec.shape, spec.dtype)
    return np.frombuffer(memory, np.dtype(spec.dtype), count, offset).reshape(spec.shape)
