"""A queue of numbered jobs that all shards of a simulator take from, without a process in between.

A shard that is done takes the next number itself, so none idles while a job is left.
The queue is a log of turns in a shared unnamed file, guarded by a POSIX record lock,
which the system frees if a shard dies while it holds it.  A turn counts only once the
head says so, which is the last thing written: who dies before has taken nothing.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# Neither lies across two pages of memory, so a process that is killed leaves it whole or untouched.
_HEAD = struct.Struct("<qq")  # turns taken so far, length of the log
_TURN = struct.Struct("<ii")  # job, shard
_NO_JOB = -1
_NOBODY, _GIVEN_BACK = -1, -2


class WorkQueue:
    """The jobs 0 .. n-1, each handed out once, and again if it is given back.

    Args:
        fd: of an `unnamed_file`.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fill(self, jobs: int) -> None:
        """Starts over with so many jobs; called while no shard takes any."""
        os.ftruncate(self._fd, 0)
        self._write(0, jobs, ((job, _NOBODY) for job in range(jobs)))

    def take(self, shard: int) -> int | None:
        """The next job for a shard, or None when all are taken."""
        with self._locked():
            turn, end = self._head()
            if turn == end:
                # A turn too: who dies from here on dies at no job.
                self._write(turn + 1, end + 1, [(_NO_JOB, shard)], at=turn)
                return None
            ((job, _),) = self._turns(turn, turn + 1)
            self._write(turn + 1, end, [(job, shard)], at=turn)
            return job

    def give_back(self, dead: int) -> int:
        """Hands out the jobs of a dead shard once more, before those that nobody has taken; returns how many."""
        with self._locked():
            turn, end = self._head()
            past = self._turns(0, turn)
            back = [(job, _NOBODY) for job, shard in past if shard == dead and job != _NO_JOB]
            kept = [(job, _GIVEN_BACK if shard == dead else shard) for job, shard in past]
            self._write(turn, end + len(back), [*kept, *back, *self._turns(turn, end)])
            return len(back)

    def taken_by(self, shard: int) -> list[int]:
        """The jobs a shard has taken and not given back, in order."""
        turn, _ = self._head()
        return [job for job, who in self._turns(0, turn) if who == shard and job != _NO_JOB]

    def job_of(self, shard: int) -> int | None:
        """The job a shard is at: the last it has taken, or None if it has none or found the queue empty."""
        turn, _ = self._head()
        mine = [job for job, who in self._turns(0, turn) if who == shard]
        return mine[-1] if mine and mine[-1] != _NO_JOB else None

    # -- inside ------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def _head(self) -> tuple[int, int]:
        turn, end = _HEAD.unpack(os.pread(self._fd, _HEAD.size, 0))
        return turn, end

    def _turns(self, first: int, last: int) -> list[tuple[int, int]]:
        packed = os.pread(self._fd, (last - first) * _TURN.size, _HEAD.size + first * _TURN.size)
        return [(job, shard) for job, shard in _TURN.iter_unpack(packed)]

    def _write(self, turn: int, end: int, turns: Iterable[tuple[int, int]], *, at: int = 0) -> None:
        """Writes turns from place `at` on, and then the head that makes them count."""
        os.pwrite(self._fd, b"".join(_TURN.pack(*each) for each in turns), _HEAD.size + at * _TURN.size)
        os.pwrite(self._fd, _HEAD.pack(turn, end), 0)
