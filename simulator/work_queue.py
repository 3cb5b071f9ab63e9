"""A queue of numbered jobs that all shards of a simulator take from, without a process in between.

A shard that is done takes the next number itself, so none idles while a job is left.
The counter lives in a shared unnamed file and is guarded by a POSIX record lock,
which the system frees if a shard dies while it holds it.
"""

from __future__ import annotations

import fcntl
import os
import struct

_HEAD = struct.Struct("<qq")  # next job, number of jobs
_CLAIM = struct.Struct("<i")


class WorkQueue:
    """The jobs 0 .. n-1, each handed out once.

    Args:
        fd: of an `unnamed_file`.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fill(self, jobs: int) -> None:
        """Starts over with so many jobs; called while no shard takes any."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, _HEAD.pack(0, jobs), 0)

    def take(self, shard: int) -> int | None:
        """The next job for a shard, or None when all are taken."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            job, jobs = _HEAD.unpack(os.pread(self._fd, _HEAD.size, 0))
            if job >= jobs:
                return None
            os.pwrite(self._fd, _CLAIM.pack(shard), _HEAD.size + job * _CLAIM.size)
            os.pwrite(self._fd, _HEAD.pack(job + 1, jobs), 0)
            return int(job)
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def taken_by(self, shard: int) -> list[int]:
        """The jobs a shard has taken."""
        job, _ = _HEAD.unpack(os.pread(self._fd, _HEAD.size, 0))
        claims = os.pread(self._fd, job * _CLAIM.size, _HEAD.size)
        return [i for i, (who,) in enumerate(_CLAIM.iter_unpack(claims)) if who == shard]
