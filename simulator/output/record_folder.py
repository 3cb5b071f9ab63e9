"""The folder of a run's record: it belongs to one run as long as that lives, and then to whoever goes on with it.

A lock on `.lock` says whose it is.  The system takes it away from a process that has ended,
however it ended, and no child of it ever holds it: the file is closed in whatever is executed.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import logging
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from protos.errors import BadInput, FLError

logger = logging.getLogger(__name__)

LOCK = ".lock"
# Bytes of the lock file.  The owner holds the second; whoever looks who that is, or becomes it, holds the first.
_GATE, _OWNER = 0, 1
_FLOCK = "hhqqi4x"  # struct flock of Linux: type, whence, start, length, process
_TAKEN = (errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class RecordFolder:
    """A folder that this process holds.

    Args:
        path: an existing folder.
        option: how it was named, for errors.

    Raises:
        BadInput: another run holds it.
        FLError: it cannot be written to.
    """

    def __init__(self, path: Path, option: str) -> None:
        self.path = path
        # The lock is that of this open file: it goes with it.
        self._file = _take(path, option)

    @classmethod
    def make(cls, path: Path) -> RecordFolder:
        """Takes the folder of --output, and makes it if it is missing."""
        with _writing(path):
            path.mkdir(parents=True, exist_ok=True)
        return cls(path, "--output")

    @classmethod
    def make_new(cls, runs: Path) -> RecordFolder:
        """Makes and takes a folder that nobody else has: DATE-TIME, with -2 and so on if that is taken."""
        name = time.strftime("%Y%m%d-%H%M%S")
        with _writing(runs):
            runs.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = runs / (name if number == 1 else f"{name}-{number}")
            with _writing(path):
                try:
                    path.mkdir()
                except FileExistsError:
                    continue
            return cls(path, "--output")
        raise AssertionError("there is always another number")

    def release(self) -> None:
        """Lets others have it."""
        self._file.close()


def _take(folder: Path, option: str) -> Any:
    """The lock file, open and locked."""
    path = folder / LOCK
    while True:
        with _writing(folder, option):
            file = path.open("a+", encoding="utf-8")
        try:
            _lock(file.fileno(), folder, option)
            # Somebody may have removed the folder meanwhile, and another run made it anew.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(fd: int, folder: Path, option: str) -> None:
    """Makes this process the owner; raises BadInput if another is."""
    try:
        owner = _claim(fd)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise FLError(f"{option} {folder} cannot be written: {error.strerror}") from error
        here = f"{folder}: its file system has no locks ({error.strerror})"
        logger.warning("%s", f"{here}: see to it yourself that no other run writes there")
        return
    if owner is not None:
        raise BadInput(
            f"{option} {folder}: another run has this folder ({_described(owner)}); wait for its end, or give another "
            "folder with --output"
        )


def _claim(fd: int) -> bytes | None:
    """Takes the lock; what its owner has written if there is one."""
    # Whoever comes through the gate finds the lock free, or what its owner has written, whole.
    _call(fcntl.F_OFD_SETLKW, fd, fcntl.F_WRLCK, _GATE)
    try:
        _call(fcntl.F_OFD_SETLK, fd, fcntl.F_WRLCK, _OWNER)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        return os.pread(fd, 4096, 0)  # closing the file opens the gate
    os.ftruncate(fd, 0)
    os.write(fd, _who().encode())
    _call(fcntl.F_OFD_SETLK, fd, fcntl.F_UNLCK, _GATE)
    return None


def _call(command: int, fd: int, kind: int, at: int) -> None:
    fcntl.fcntl(fd, command, struct.pack(_FLOCK, kind, os.SEEK_SET, at, 1, 0))


def _who() -> str:
    started = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return json.dumps({"host": socket.gethostname(), "process": os.getpid(), "started": started}) + "\n"


def _described(content: bytes) -> str:
    try:
        told = json.loads(content)
        return f"host {told['host']}, process {told['process']}, started {told['started']}"
    except (ValueError, KeyError, TypeError):
        return f"its {LOCK} does not say which"


@contextmanager
def _writing(path: Path, option: str = "--output") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FLError(f"{option} {path} cannot be written: {error.strerror}") from error
