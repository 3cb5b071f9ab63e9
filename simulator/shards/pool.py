"""A simulator's side of its shards: the memory they share, the work they take, the answers put together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from protos.codec import TensorSpec
from protos.errors import FLError
from protos.shared_arrays import MemoryHandle, SharedArrays, unnamed_file
from scheduler.rules.exact_sum import Sums, sum_specs
from scheduler.rules.samplers import Round
from scheduler.state.rounds import Share, Timings
from simulator.shards import jobs
from simulator.shards.crew import ShardCrew
from simulator.shards.environment import shard_environment
from simulator.shards.process import ShardProcess
from simulator.shards.work_queue import WorkQueue
from simulator.users.example_cache import CacheUse


class ShardPool:
    """The shards of one simulator.

    Args:
        count: how many.
        tune: whether to do what is for speed only: the environment, lingering.
        settings: as `jobs.ShardSettings`, without index and file descriptors.
    """

    def __init__(self, count: int, *, tune: bool, **settings: Any) -> None:
        self._params_fd = unnamed_file("flsim-params")
        self._queue_fd = unnamed_file("flsim-queue")
        self._sums_fds = [unnamed_file("flsim-sums") for _ in range(count)]
        # Closed when the shards have ended, or this process has: a shard that reads its end of it leaves.
        self._lifeline, self._hold = os.pipe()
        self._settings = settings
        self._tune = tune
        self._environment = shard_environment(os.environ, tune=tune)
        self._params: SharedArrays | None = None
        self._sums: list[Sums] = []
        # Where the shards' sums are, for a scheduler on this machine.
        self.sum_handles: list[MemoryHandle] = []
        self.queue = WorkQueue(self._queue_fd)
        # The round that shards know of already; the queue is filled for it.
        self._ahead: jobs.TrainShare | None = None
        self._open = True
        try:
            self._crew = ShardCrew(self._start, count, self.queue)
        except BaseException:
            # Those that were started see the end of the pipe, and leave.
            self._release()
            raise

    def __len__(self) -> int:
        return len(self._crew)

    @property
    def pids(self) -> list[int]:
        """Process ids of the shards."""
        return self._crew.pids

    def _start(self, index: int) -> ShardProcess:
        told = jobs.ShardSettings(
            index=index,
            params_fd=self._params_fd,
            sums_fd=self._sums_fds[index],
            queue_fd=self._queue_fd,
            tune=self._tune,
            **self._settings,
        )
        return ShardProcess(told, self._environment, self._lifeline)

    # -- jobs ------------------------------------------------------------------

    def ask(self, job: Any, shard: int = 0) -> Any:
        """Has one shard do a job; returns its answer."""
        return self._crew.do({shard: job})[shard][0]

    def ask_all(self, job: Any) -> list[Any]:
        """Has every shard do a job; returns the answers in the shards' order."""
        answers = self._crew.do(self._for_all(job))
        if isinstance(job, jobs.LASTING):
            self._crew.remember(job)
        return [answers[index][0] for index in sorted(answers)]

    def attach(self, arrays: Mapping[str, TensorSpec], *, write_initial: bool) -> SharedArrays:
        """Lays out the shared arrays and has all shards map them; shard 0 may write its initial values."""
        self._params = SharedArrays(self._params_fd, arrays, create=True)
        memory = [SharedArrays(fd, sum_specs(arrays), create=True) for fd in self._sums_fds]
        self._sums = [Sums.of(each.arrays, arrays) for each in memory]
        self.sum_handles = [each.handle() for each in memory]
        self._crew.do({i: jobs.Attach(dict(arrays), write_initial and i == 0) for i in range(len(self))})
        # A shard that is started later must not write over what has become of the initial values.
        self._crew.remember(jobs.Attach(dict(arrays), write_initial=False))
        return self._params

    def read_files(
        self, date: str, split: str, files: Sequence[tuple[int, Path]], cache: CacheUse | None = None
    ) -> jobs.FilesRead:
        """Reads files of a day in all shards."""
        self.queue.fill(len(files))
        merged = jobs.FilesRead()
        for read in self.ask_all(jobs.ReadFiles(date, split, tuple(files), cache)):
            merged.merge(read)
            merged.cached += read.cached
            merged.trouble = merged.trouble or read.trouble
        return merged

    def weigh(self, date: str, uids: Sequence[str]) -> dict[str, float]:
        """Weighs users on all their training data of a day in all shards; returns uid -> weight."""
        self.queue.fill(len(uids))
        answers = self.ask_all(jobs.WeighUsers(date, tuple(uids)))
        return {uid: weight for weights in answers for uid, weight in weights.items()}

    def train(
        self, at: Round, share: Share, following: Callable[[], tuple[Round, Share]] | None = None
    ) -> jobs.ShareResult:
        """Trains a share in all shards; their sums are then in `sum_handles`.

        Args:
            at: the round.
            share: of it.
            following: asked, while the shards train, for the round and share that come next.  Shards
                get ready for it, and may begin with it as soon as the scheduler's memory holds its
                parameters: the next call must be for this one.
        """
        job, told = jobs.TrainShare(at, share), self._ahead
        self._ahead = None
        if told is None:
            self.queue.fill(len(share.uids))
        else:
            assert told == job, "shards were told of another round"

        def tell() -> None:
            assert following is not None
            coming = jobs.TrainShare(*following())
            if self._crew.tell(jobs.Ahead(coming, len(self))):
                self._ahead = coming

        result = self._run_share(self._for_all(job), tell if following is not None else None)
        if self._ahead is not None:
            # No shard takes from the queue now, and none begins before this round is pushed.
            self.queue.fill(len(self._ahead.share.uids))
        return result

    def train_in_turn(self, at: Round, share: Share) -> jobs.ShareResult:
        """Trains a share one user after another in shard 0; the result is then in the shared parameters."""
        assert self._params is not None, "attach comes first"
        self.queue.fill(len(share.uids))
        result = self._run_share({0: jobs.TrainInTurn(at, share)})
        specs = {name: TensorSpec.of(value) for name, value in self._params.arrays.items()}
        for name, value in jobs.result_room(self._sums[0], specs).items():
            self._params[name][...] = value
        return result

    def evaluate(self, at: Round, share: Share, trained_on: str) -> jobs.ShareResult:
        """Evaluates a share in all shards; see `jobs.EvaluateShare`."""
        self.queue.fill(len(share.groups) or len(share.uids))
        return self._run_share(self._for_all(jobs.EvaluateShare(at, share, trained_on)))

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
        self._crew.interrupt(error)

    def close(self, timeout: float = 5.0) -> None:
        """Has all shards leave; kills those that do not within `timeout` seconds."""
        self._crew.close(timeout)
        self._release()

    def kill(self) -> None:
        """Ends all shards at once."""
        self._crew.kill()
        self._release()

    # -- inside ------------------------------------------------------------------

    def _release(self) -> None:
        """Gives back the memory that was shared with the shards, which have ended, and what told them to."""
        if self._open:
            self._open = False
            self._params, self._sums = None, []
            for fd in (self._params_fd, self._queue_fd, *self._sums_fds, self._lifeline, self._hold):
                os.close(fd)

    def _for_all(self, job: Any) -> dict[int, Any]:
        return dict.fromkeys(range(len(self)), job)

    def _run_share(self, tasks: Mapping[int, Any], meanwhile: Callable[[], None] | None = None) -> jobs.ShareResult:
        began = time.perf_counter()
        answers = self._crew.do(tasks, meanwhile)
        ended = max((when for _, when in answers.values()), default=began)
        pull = train = push = wait_ = 0.0
        last = max((each for each in answers.values() if each[0].timings.last), key=lambda each: each[1], default=None)
        results = []
        for answer, when in answers.values():
            results.extend(answer.results)
            pull += answer.timings.pull
            train += answer.timings.train
            push += answer.timings.push
            wait_ += ended - when
        wait_ += (len(self) - len(tasks)) * (ended - began)
        lanes = len(self)
        whose = {} if last is None else {"last": last[0].timings.last, "turn": last[0].timings.turn}
        return jobs.ShareResult(results, Timings(pull / lanes, train / lanes, push / lanes, wait_ / lanes, **whose))
