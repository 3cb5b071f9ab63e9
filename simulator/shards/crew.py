"""The shards of a simulator as one: gives them jobs, collects answers, and puts another in a dead one's place."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

from protos.errors import BadInput, FLError, PeerLost, RunEnded
from simulator.shards import jobs
from simulator.shards.deaths import OomKills, death_hint
from simulator.shards.process import ShardProcess
from simulator.shards.work_queue import WorkQueue

logger = logging.getLogger(__name__)

# So many deaths at one user in one round are no accident.
MAX_DEATHS = 3
# Of a job told ahead: what a pipe takes while its shard is busy and does not read.
MAX_AHEAD_BYTES = 32 << 10


class ShardCrash(FLError):
    """An exception in user code within a shard; the message is its traceback."""


@dataclass
class _Call:
    """What is under way.

    Attributes:
        tasks: shard -> its job.
        todo: shard -> what it still has to do: its job, for a new shard after all that came before.
        begun: shards that were given their first job.
        deaths: by number of the job in the queue, or -1 - shard for deaths at none.
    """

    tasks: Mapping[int, Any]
    todo: dict[int, deque[Any]]
    begun: set[int] = field(default_factory=set)
    deaths: Counter[int] = field(default_factory=Counter)


class ShardCrew:
    """All shards of one simulator.

    What a shard has done of a job is handed over with its answer only.  So if it dies, all
    that it took from the queue is given back, and another process does its job anew, in the
    memory of the dead one's sums, which that job begins by clearing.

    Args:
        start: starts the shard of an index.
        count: how many.
        queue: that they take users and files from.
    """

    def __init__(self, start: Callable[[int], ShardProcess], count: int, queue: WorkQueue) -> None:
        self._start, self._queue = start, queue
        # Written to by another thread to end a wait.
        self._wake_read, self._wake_write = os.pipe()
        # Of the pipe's end and of who writes to it: a number that is closed may soon be another file's.
        self._waking = threading.Lock()
        self._closed = False
        self._interrupt: FLError | None = None
        self._lasting: list[Any] = []
        # Shards that know their next job, and those that this call has put in the places of dead ones.
        self._told: set[int] = set()
        self._new: set[int] = set()
        self._oom_kills = OomKills()
        self._shards: list[ShardProcess] = []
        try:
            for index in range(count):
                self._shards.append(start(index))
        except BaseException:
            self.kill()
            raise

    def __len__(self) -> int:
        return len(self._shards)

    @property
    def pids(self) -> list[int]:
        """Process ids of the shards."""
        return [shard.pid for shard in self._shards]

    def do(self, tasks: Mapping[int, Any], meanwhile: Callable[[], None] | None = None) -> dict[int, tuple[Any, float]]:
        """Has shards do a job each, and waits for all answers.

        Args:
            tasks: shard -> job; if a job was told ahead, that.
            meanwhile: called when all have their jobs.

        Returns:
            Shard -> its answer, and when it came.

        Raises:
            FLError: a shard has died and cannot be replaced, or the call was interrupted.
            ShardCrash: an exception in user code.
        """
        call = _Call(tasks, {index: deque([job]) for index, job in tasks.items()})
        told, self._told, self._new = self._told, set(), set()
        for index in tasks:
            if index in told:
                self._send_go(index, call)
            else:
                self._send_next(index, call)
        if meanwhile is not None:
            meanwhile()
        answers: dict[int, tuple[Any, float]] = {}
        while call.todo:
            waiting = {self._shards[index].connection: index for index in call.todo}
            for ready in wait([*waiting, self._wake_read]):
                if ready == self._wake_read:
                    raise self._interrupt or RunEnded("the run has ended")
                assert isinstance(ready, Connection)
                index = waiting[ready]
                done = self._answer(index, call)
                if done is not None:
                    answers[index] = (done.value, time.perf_counter())
        return answers

    def tell(self, job: jobs.Ahead) -> bool:
        """Tells shards the job they are asked for next; returns whether it was: not if it is large.

        One that has just been started is not told: it has all jobs before this one still to do, and would take the
        next of these in its place.
        """
        message = ForkingPickler.dumps(job)
        if len(message) > MAX_AHEAD_BYTES:
            return False
        for index, shard in enumerate(self._shards):
            if index in self._new:
                continue
            # One that is dead is found by who waits for its answer, and is told with the job itself.
            with contextlib.suppress(OSError):
                shard.send_pickled(message)
                self._told.add(index)
        return True

    def remember(self, job: Any) -> None:
        """Keeps a job that every shard has done, for those that are started later."""
        self._lasting.append(job)

    def interrupt(self, error: FLError) -> None:
        """Ends the wait for shards with an error; called from another thread."""
        with self._waking:
            if not self._closed:
                self._interrupt = error
                os.write(self._wake_write, b"x")

    def close(self, timeout: float) -> None:
        """Has all shards leave; kills those that do not within `timeout` seconds."""
        for shard in self._shards:
            shard.leave()
        deadline = time.monotonic() + timeout
        for shard in self._shards:
            shard.wait(max(0.0, deadline - time.monotonic()))
        self._release()

    def kill(self) -> None:
        """Ends all shards at once."""
        for shard in self._shards:
            shard.kill()
        self._release()

    # -- inside ------------------------------------------------------------------

    def _release(self) -> None:
        for shard in self._shards:
            shard.release()
        self._shards = []
        with self._waking:
            if not self._closed:
                self._closed = True
                os.close(self._wake_read)
                os.close(self._wake_write)

    def _send_go(self, index: int, call: _Call) -> None:
        """Has a shard begin with the job it was told ahead, if it has not."""
        call.begun.add(index)
        try:
            self._shards[index].send(jobs.Go())
        except OSError:
            self._replace(index, call)
            self._send_next(index, call)

    def _send_next(self, index: int, call: _Call) -> None:
        """Gives a shard the next of its jobs; one that is dead is replaced first."""
        while True:
            try:
                self._shards[index].send(call.todo[index][0])
            except OSError:
                self._replace(index, call)
            else:
                call.begun.add(index)
                return

    def _answer(self, index: int, call: _Call) -> jobs.Done | None:
        """Takes a shard's answer; returns it if it is that of its own job."""
        try:
            answer = self._shards[index].receive()
        except (EOFError, OSError):
            self._replace(index, call)
            self._send_next(index, call)
            return None
        if isinstance(answer, jobs.Failed):
            raise _as_error(answer)
        call.todo[index].popleft()
        if call.todo[index]:
            self._send_next(index, call)
            return None
        del call.todo[index]
        return answer

    def _replace(self, index: int, call: _Call) -> None:
        """Puts a new process in the place of a dead one, with all of its job before it.

        Raises:
            FLError: its job was part of the set-up, or it was the third to die at the same user or file.
        """
        shard, task = self._shards[index], call.tasks[index]
        code = shard.bury()
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        hint = death_hint(code, len(self), oom_killed=self._oom_kills.new())
        idle = shard.answered and index not in call.begun
        at = again = ""
        if isinstance(task, jobs.QUEUED):
            part = self._queue.job_of(index)
            at = f" at {jobs.describe_part(task, part)}" if part is not None else ""
            back = self._queue.give_back(index)
            again = f" and {jobs.describe_again(task, back)}" if back else ""
            if not idle:
                call.deaths[-1 - index if part is None else part] += 1
        elif not idle:
            raise FLError(f"shard {index} (process {shard.pid}) died while it was set up ({how}){hint}")
        died = f"shard {index} (process {shard.pid}) died{at} ({how})"
        if max(call.deaths.values(), default=0) == MAX_DEATHS:
            raise FLError(f"{died}, as did {MAX_DEATHS - 1} before it{hint}")
        logger.warning("%s%s; another takes its place%s", died, hint, again)
        self._shards[index] = self._start(index)
        self._told.discard(index)
        self._new.add(index)
        call.todo[index] = deque([*self._lasting, task])


def _as_error(failed: jobs.Failed) -> Exception:
    if failed.peer_lost:
        return PeerLost(f"{failed.where}: {failed.message}" if failed.where else failed.message)
    if failed.bad_input:
        if not failed.where or failed.where.startswith("file "):
            return BadInput(failed.message)
        # Most messages name the uid themselves.
        place, _, uid = failed.where.partition(", uid ")
        return BadInput(f"{place if uid and uid in failed.message else failed.where}: {failed.message}")
    return ShardCrash(f"{failed.where or 'shard'} failed:\n{failed.message}")
