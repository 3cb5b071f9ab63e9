"""A simulator's side of its shards: starts them, gives them work, notices when one dies."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing.spawn
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from protos.codec import TensorSpec
from protos.errors import BadInput, FLError, RunEnded
from protos.shared_arrays import MemoryHandle, SharedArrays, unnamed_file
from scheduler.aggregation import Sums, sum_specs
from scheduler.rounds import Share, Timings
from scheduler.samplers import Round
from simulator import jobs
from simulator.shard_environment import shard_environment
from simulator.work_queue import WorkQueue

logger = logging.getLogger(__name__)


class ShardCrash(Exception):
    """An exception in user code within a shard; the message is its traceback."""


class ShardPool:
    """The shards of one simulator.

    Args:
        count: how many.
        tune: whether to set the environment for speed.
        on_death: told, in another thread, when a shard dies that was not asked to leave.
        settings: as `jobs.ShardSettings`, without index and file descriptors.
    """

    def __init__(self, count: int, *, tune: bool, on_death: Callable[[FLError], None], **settings: Any) -> None:
        self._leaving = False
        self._on_death = on_death
        self._jobs: dict[int, Any] = {}
        self._params_fd = unnamed_file("flsim-params")
        self._queue_fd = unnamed_file("flsim-queue")
        self._sums_fds = [unnamed_file("flsim-sums") for _ in range(count)]
        # Closed only when this process ends: a shard that reads its end of it leaves.
        self._lifeline, self._hold = os.pipe()
        # Written to by another thread to end a wait.
        self._wake_read, self._wake_write = os.pipe()
        self._interrupt: FLError | None = None
        self.queue = WorkQueue(self._queue_fd)
        self._environment = shard_environment(os.environ, tune=tune)
        self._sums: list[Sums] = []
        # Where the shards' sums are, for a scheduler on this machine.
        self.sum_handles: list[MemoryHandle] = []
        self._shards = [self._start(index, settings) for index in range(count)]
        for index in range(count):
            threading.Thread(target=self._attend, args=(index,), name=f"shard {index}", daemon=True).start()

    def __len__(self) -> int:
        return len(self._shards)

    @property
    def pids(self) -> list[int]:
        """Process ids of the shards."""
        return [process.pid for process, _ in self._shards]

    def _start(self, index: int, settings: Mapping[str, Any]) -> tuple[subprocess.Popen[bytes], Connection]:
        fds = (self._params_fd, self._sums_fds[index], self._queue_fd)
        told = jobs.ShardSettings(index=index, params_fd=fds[0], sums_fd=fds[1], queue_fd=fds[2], **settings)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "simulator.shard", str(theirs.fileno()), str(self._lifeline)],
                env=self._environment,
                pass_fds=(*fds, theirs.fileno(), self._lifeline),
                stdin=subprocess.DEVNULL,
                # Launchers kill a rank's whole process group; a shard lives on for the
                # moment it takes to remove the rank's scratch folder.
                start_new_session=True,
            )
            connection = Connection(ours.detach())
        connection.send(_main_module())
        connection.send(told)
        return process, connection

    def _attend(self, index: int) -> None:
        """Waits for a shard to end, whatever the main thread waits for meanwhile."""
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self._shards[index][0].pid, os.WEXITED | os.WNOWAIT)
        if not self._leaving:
            self._on_death(self._died(index))

    # -- jobs ------------------------------------------------------------------

    def ask(self, job: Any, shard: int = 0) -> Any:
        """Has one shard do a job; returns its answer."""
        return self._collect({shard: job})[shard][0]

    def ask_all(self, job: Any) -> list[Any]:
        """Has every shard do a job; returns the answers in the shards' order."""
        answers = self._collect(dict.fromkeys(range(len(self._shards)), job))
        return [answers[index][0] for index in sorted(answers)]

    def attach(self, shared: Mapping[str, TensorSpec], *, write_initial: bool) -> SharedArrays:
        """Lays out the shared arrays and has all shards map them; shard 0 may write its initial values."""
        params = SharedArrays(self._params_fd, shared, create=True)
        memory = [SharedArrays(fd, sum_specs(shared), create=True) for fd in self._sums_fds]
        self._sums = [Sums.of(each.arrays, shared) for each in memory]
        self.sum_handles = [each.handle() for each in memory]
        tasks = {i: jobs.Attach(dict(shared), write_initial and i == 0) for i in range(len(self._shards))}
        self._collect(tasks)
        return params

    def read_files(self, date: str, split: str, files: Sequence[tuple[int, Path]]) -> dict[str, int]:
        """Reads files of a day in all shards; returns uid -> examples."""
        self.queue.fill(len(files))
        merged: dict[str, int] = {}
        for counts in self.ask_all(jobs.ReadFiles(date, split, tuple(files))):
            for uid, count in counts.items():
                merged[uid] = merged.get(uid, 0) + count
        return merged

    def train(self, at: Round, share: Share) -> jobs.ShareResult:
        """Trains a share in all shards; their sums are then in `sums`."""
        self.queue.fill(len(share.uids))
        return self._run_share(dict.fromkeys(range(len(self._shards)), jobs.TrainShare(at, share)))

    def train_in_turn(self, at: Round, share: Share) -> jobs.ShareResult:
        """Trains a share one user after another in shard 0; the result is then in the shared parameters."""
        return self._run_share({0: jobs.TrainInTurn(at, share)})

    def evaluate(self, at: Round, share: Share) -> jobs.ShareResult:
        """Evaluates a share in all shards."""
        self.queue.fill(len(share.uids))
        return self._run_share(dict.fromkeys(range(len(self._shards)), jobs.EvaluateShare(at, share)))

    def reduce_sums(self) -> dict[str, Any]:
        """The sums of all shards, added up in shard 0's memory."""
        first = self._sums[0]
        for name in first.totals:
            total = first.settle(name)
            for other in self._sums[1:]:
                total += other.settle(name)
        return dict(first.totals)

    def interrupt(self, error: FLError) -> None:
        """Ends the wait for shards with an error; called from another thread."""
        self._interrupt = error
        os.write(self._wake_write, b"x")

    def close(self, timeout: float = 5.0) -> None:
        """Has all shards leave; kills those that do not within `timeout` seconds."""
        self._leaving = True
        for _, connection in self._shards:
            with contextlib.suppress(OSError):
                connection.send(jobs.Stop())
        deadline = time.monotonic() + timeout
        for process, _ in self._shards:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
        self._release()

    def kill(self) -> None:
        """Ends all shards at once."""
        self._leaving = True
        for process, _ in self._shards:
            process.kill()
        self._release()

    # -- inside ------------------------------------------------------------------

    def _release(self) -> None:
        for process, connection in self._shards:
            process.wait()
            connection.close()
        self._shards = []

    def _run_share(self, tasks: Mapping[int, Any]) -> jobs.ShareResult:
        began = time.perf_counter()
        answers = self._collect(tasks)
        ended = max((when for _, when in answers.values()), default=began)
        pull = train = push = wait_ = 0.0
        results = []
        for answer, when in answers.values():
            results.extend(answer.results)
            pull += answer.timings.pull
            train += answer.timings.train
            push += answer.timings.push
            wait_ += ended - when
        wait_ += (len(self._shards) - len(tasks)) * (ended - began)
        lanes = len(self._shards)
        return jobs.ShareResult(results, Timings(pull / lanes, train / lanes, push / lanes, wait_ / lanes))

    def _collect(self, tasks: Mapping[int, Any]) -> dict[int, tuple[Any, float]]:
        """Sends jobs and waits for all answers, noting when each came."""
        self._jobs = dict(tasks)
        for index, job in tasks.items():
            try:
                self._shards[index][1].send(job)
            except OSError as error:
                raise self._died(index) from error
        waiting = {self._shards[index][1]: index for index in tasks}
        answers: dict[int, tuple[Any, float]] = {}
        while waiting:
            for ready in wait([*waiting, self._wake_read]):
                if ready == self._wake_read:
                    raise self._interrupt or RunEnded("the run has ended")
                assert isinstance(ready, Connection)
                index = waiting.pop(ready)
                try:
                    answer = ready.recv()
                except (EOFError, OSError) as error:
                    raise self._died(index) from error
                if isinstance(answer, jobs.Failed):
                    raise _as_error(answer)
                answers[index] = (answer.value, time.perf_counter())
        return answers

    def _died(self, index: int) -> FLError:
        process, job = self._shards[index][0], self._jobs.get(index)
        code = process.wait()
        at = ""
        if isinstance(job, jobs.TrainShare | jobs.EvaluateShare) and (taken := self.queue.taken_by(index)):
            at = f" at {jobs.describe_turn(job.share.uids[taken[-1]], job.at)}"
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        hint = "; the system may have run out of memory" if code == -9 else ""
        return FLError(f"shard {index} (process {process.pid}) died{at} ({how}){hint}")


def _as_error(failed: jobs.Failed) -> Exception:
    if failed.bad_input:
        if not failed.where or failed.where.startswith("file "):
            return BadInput(failed.message)
        # Most messages name the uid themselves.
        place, _, uid = failed.where.partition(", uid ")
        return BadInput(f"{place if uid and uid in failed.message else failed.where}: {failed.message}")
    return ShardCrash(f"{failed.where or 'shard'} failed:\n{failed.message}")


def _main_module() -> dict[str, Any]:
    """How a shard finds the classes of the main script: the part of multiprocessing's own recipe that is needed."""
    told = multiprocessing.spawn.get_preparation_data("shard")
    return {key: told[key] for key in ("init_main_from_name", "init_main_from_path", "sys_argv", "dir") if key in told}
