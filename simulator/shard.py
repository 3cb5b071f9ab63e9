"""A shard: a resident worker process that trains users one after another.

The only processes that import Paddle.  Started by `shard_process`, driven over a pipe.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import multiprocessing.spawn
import os
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from protos.codec import Tensors, to_bundle
from protos.errors import BadInput, FLError
from protos.shared_arrays import SharedArrays
from scheduler.aggregation import ExactSum, Sums, sum_specs
from scheduler.metrics import Pair, UserResult
from scheduler.rounds import TRAIN, Timings
from scheduler.samplers import Round
from scheduler.streams import stream_key, stream_of
from simulator import jobs
from simulator.data_client import DataClient
from simulator.examples import Examples, check_examples
from simulator.linger import SHORT_JOB_SECONDS, linger
from simulator.logs import set_up_logging
from simulator.scratch import remove_folder
from simulator.store import UserRecord, UserStore
from simulator.work_queue import WorkQueue

logger = logging.getLogger(__name__)

BATCH_BYTES = 8 << 20
# Of examples fetched before their round.
FETCH_BYTES = 4 << 20
# A process that ends closes all its files, but one after another.
_ALL_CLOSE_SECONDS = 1.0


@dataclass(frozen=True)
class Turn:
    """Whose turn it is; what a trainer knows as `LocalUser`."""

    uid: str
    date: str
    round: int
    key: int

    @cached_property
    def rng(self) -> np.random.Generator:
        """The user's own random stream; few trainers ask for it."""
        return stream_of(self.key)


class Shard:
    """The state of one worker process.

    Args:
        settings: what it is told at the start.
    """

    def __init__(self, settings: jobs.ShardSettings) -> None:
        self._is = settings
        self._store = UserStore(settings.store)
        self._queue = WorkQueue(settings.queue_fd)
        self._data: DataClient | None = None
        self._model: Any = None
        self._private_start: Any = None
        self._params: SharedArrays | None = None
        self._sums: Sums | None = None
        self._checked_rows = False
        # Examples of the round to come, by date and uid.
        self._fetched: dict[tuple[str, str], Examples] = {}
        self.where = ""
        self._do: dict[type, Callable[[Any], Any]] = {
            jobs.Connect: self._connect,
            jobs.Prepare: self._prepare,
            jobs.Setup: self._setup,
            jobs.ReadFiles: self._read_files,
            jobs.BuildModel: self._build_model,
            jobs.Attach: self._attach,
            jobs.UseMemory: self._use_memory,
            jobs.StartPrivate: self._start_private,
            jobs.TrainShare: self._train_share,
            jobs.TrainInTurn: self._train_in_turn,
            jobs.EvaluateShare: self._evaluate_share,
        }

    def run(self, job: Any) -> Any:
        """Does one job and returns its answer."""
        self.where = ""
        return self._do[type(job)](job)

    # -- data ------------------------------------------------------------------

    def _connect(self, job: jobs.Connect) -> None:
        self._data = DataClient(job.addresses, self._is.rank, self._store, job.credentials)

    def _prepare(self, job: jobs.Prepare) -> str:
        self.where = f"file {job.data}"
        return json.dumps(self._is.reader.prepare(job.data, job.files))

    def _setup(self, job: jobs.Setup) -> None:
        self._is.reader.setup(job.shared)

    def _read_files(self, job: jobs.ReadFiles) -> dict[str, int]:
        # Parsing makes millions of objects and no cycles: looking for some takes half of the time.
        gc.disable()
        try:
            return self._read(job)
        finally:
            gc.enable()

    def _read(self, job: jobs.ReadFiles) -> dict[str, int]:
        counts: dict[str, int] = {}
        for i in self._jobs():
            number, path = job.files[i]
            self.where = f"file {path}"
            batches: dict[int, list[UserRecord]] = {}
            sizes: dict[int, int] = {}
            for place, (uid, examples) in enumerate(self._is.reader.read(path)):
                uid = str(uid)
                try:
                    counts[uid] = counts.get(uid, 0) + check_examples(uid, examples)
                except BadInput as error:
                    raise BadInput(f"{path}: {error}") from error
                owner = self._client.owner(uid)
                payload = to_bundle(examples).SerializeToString()
                batches.setdefault(owner, []).append(UserRecord(uid, job.date, job.split, (number, place), payload))
                sizes[owner] = sizes.get(owner, 0) + len(payload)
                if sizes[owner] > BATCH_BYTES:
                    self._client.send_data(owner, batches.pop(owner))
                    sizes[owner] = 0
            for owner, records in batches.items():
                self._client.send_data(owner, records)
        return counts

    @property
    def _client(self) -> DataClient:
        assert self._data is not None, "Connect comes first"
        return self._data

    def _jobs(self) -> Iterator[int]:
        while (job := self._queue.take(self._is.index)) is not None:
            yield job

    # -- model -----------------------------------------------------------------

    def _build_model(self, job: jobs.BuildModel) -> jobs.ModelSchema:
        from simulator.model_state import build_model

        self.where = f"{type(self._is.trainer).__name__}.make_model"
        model = self._model = build_model(self._is.trainer, self._is.seed, self._is.private)
        # What Paddle's import left behind stays for good: the collector need not visit it again and again.
        gc.collect()
        gc.freeze()
        return jobs.ModelSchema(
            {name: model.specs[name] for name in model.shared}, {name: model.specs[name] for name in model.private}
        )

    def _attach(self, job: jobs.Attach) -> None:
        self._params = SharedArrays(self._is.params_fd, job.shared)
        self._sums = Sums.of(SharedArrays(self._is.sums_fd, sum_specs(job.shared)).arrays, job.shared)
        if job.write_initial:
            self._write_params(self._params.arrays)

    def _write_params(self, into: Tensors) -> None:
        """Puts the model's shared parameters into the simulator's memory."""
        for name, target in into.items():
            target[...] = self._model.read(name)

    def _use_memory(self, job: jobs.UseMemory) -> None:
        self._params = SharedArrays.open(job.handle, {name: self._model.specs[name] for name in self._model.shared})

    def _start_private(self, job: jobs.StartPrivate) -> None:
        from simulator.model_state import PrivateStart

        self._private_start = PrivateStart(self._is.trainer, self._is.seed, self._model, job.given)

    # -- users -----------------------------------------------------------------

    def is_due(self, job: jobs.TrainShare) -> bool:
        """Whether the parameters of a round are known to be there."""
        return self._params is not None and self._params.stamped(job.at.step)

    def get_ready(self, ahead: jobs.Ahead, due: Callable[[], bool]) -> None:
        """Fetches examples of users it may have to train next, until the round begins."""
        job, room = ahead.job, FETCH_BYTES
        self._fetched.clear()
        # What cannot be fetched is fetched again in its turn, and named.
        with contextlib.suppress(FLError):
            for uid in job.share.uids[self._is.index :: ahead.lanes]:
                if room < 0 or due():
                    return
                examples = self._fetched[job.at.date, uid] = self._client.get_data_by_uid(uid, job.at.date, TRAIN)
                room -= sum(rows.nbytes for rows in examples.values())

    def _train_share(self, job: jobs.TrainShare) -> jobs.ShareResult:
        assert self._params is not None
        assert self._sums is not None
        clock, results = _Clock(), []
        self._model.load(self._params.arrays)
        exact = ExactSum(self._sums, job.share.cohort_size, job.share.exponent)
        for i in self._jobs():
            uid = job.share.uids[i]
            examples = self._load_user(uid, job.at, TRAIN)
            clock.lap("pull")
            metrics = self._train_user(uid, job.at, examples)
            clock.lap("train")
            weight = self._is.trainer.weight(examples) if self._is.weighted else 1.0
            self._take_delta(exact, uid, examples, weight)
            self._store_private(uid, job.at)
            results.append(UserResult(uid, job.share.counts[i], weight, metrics))
            clock.lap("push")
        # Those of users that another shard has trained.
        self._fetched.clear()
        return jobs.ShareResult(results, clock.timings())

    def _take_delta(self, exact: ExactSum, uid: str, examples: Examples, weight: float) -> None:
        """Adds a user's delta to the sums; the model then holds the round's parameters again."""
        assert self._params is not None
        rows = self._is.trainer.touched_rows(examples)
        if rows and not self._checked_rows:
            self._check_rows(uid, rows)
        for name in self._model.shared:
            exact.take(name, self._model.read(name), self._params[name], weight, uid, rows.get(name))

    def _check_rows(self, uid: str, rows: dict[str, Any]) -> None:
        """Holds the trainer to what it says of the rows that training can change, for its first user."""
        assert self._params is not None
        for name in set(rows) & set(self._model.shared):
            changed = (self._model.read(name) != self._params[name]).reshape(len(self._params[name]), -1).any(axis=1)
            changed[rows[name]] = False
            if changed.any():
                raise BadInput(
                    f"uid {uid!r}: touched_rows leaves out row {int(np.argmax(changed))} of {name!r}, which training "
                    "has changed; correct the trainer's touched_rows or return {}"
                )
        self._checked_rows = True

    def _train_in_turn(self, job: jobs.TrainInTurn) -> jobs.ShareResult:
        assert self._params is not None
        assert self._sums is not None
        clock, results = _Clock(), []
        self._model.load(self._params.arrays)
        for i in self._jobs():
            uid = job.share.uids[i]
            examples = self._load_user(uid, job.at, TRAIN)
            clock.lap("pull")
            metrics = self._train_user(uid, job.at, examples)
            clock.lap("train")
            self._store_private(uid, job.at)
            results.append(UserResult(uid, job.share.counts[i], self._is.trainer.weight(examples), metrics))
            clock.lap("push")
        self._write_params(jobs.result_room(self._sums, {name: self._model.specs[name] for name in self._model.shared}))
        clock.lap("push")
        return jobs.ShareResult(results, clock.timings())

    def _evaluate_share(self, job: jobs.EvaluateShare) -> jobs.ShareResult:
        assert self._params is not None
        clock, results = _Clock(), []
        self._model.load(self._params.arrays)
        self._model.model.eval()
        for i in self._jobs():
            uid = job.share.uids[i]
            examples = self._load_user(uid, job.at, "test")
            clock.lap("pull")
            turn = self._turn("test", uid, job.at)
            metrics = self._is.trainer.evaluate_user(self._model.model, examples, turn)
            results.append(UserResult(uid, job.share.counts[i], 0.0, _checked(metrics)))
            clock.lap("train")
        return jobs.ShareResult(results, clock.timings())

    def _load_user(self, uid: str, at: Round, split: str) -> Examples:
        """Fetches a user's examples and puts its private parameters into the model."""
        self.where = jobs.describe_turn(uid, at)
        examples = self._examples(uid, at.date, split)
        if self._model.private:
            private = self._client.get_param_by_uid(uid, at.step)
            self._model.load(self._private_start.of(uid) if private is None else private)
        self._model.reset_fixed()
        return examples

    def _examples(self, uid: str, date: str, split: str) -> Examples:
        fetched = self._fetched.pop((date, uid), None) if split == TRAIN else None
        return self._client.get_data_by_uid(uid, date, split) if fetched is None else fetched

    def _train_user(self, uid: str, at: Round, examples: Examples) -> dict[str, Pair]:
        self._model.model.train()
        turn = self._turn("train", uid, at)
        return _checked(self._is.trainer.train_user(self._model.model, examples, turn))

    def _turn(self, phase: str, uid: str, at: Round) -> Turn:
        from simulator.model_state import seed_everything

        parts = (phase, at.date, at.round, uid)
        seed_everything(stream_key(self._is.seed, *parts, "global"))
        return Turn(uid, at.date, at.round, stream_key(self._is.seed, *parts))

    def _store_private(self, uid: str, at: Round) -> None:
        if not self._model.private:
            return
        private: Tensors = {name: self._model.read(name) for name in self._model.private}
        for name, value in private.items():
            if not np.isfinite(value).all():
                raise BadInput(
                    f"uid {uid!r}: NaN or infinity in its private parameter {name!r}: its local training diverged; "
                    "lower the local learning rate or --max-grad-norm"
                )
        self._client.set_param_by_uid(uid, at.step, private)


class _Clock:
    """Adds up seconds by what they were spent on."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._spent = {"pull": 0.0, "train": 0.0, "push": 0.0}

    def lap(self, what: str) -> None:
        now = time.perf_counter()
        self._spent[what] += now - self._last
        self._last = now

    def timings(self) -> Timings:
        return Timings(**self._spent)


def _checked(metrics: Any) -> dict[str, Pair]:
    """A trainer's metrics as plain floats.

    Raises:
        BadInput: not name -> (sum, count).
    """
    try:
        return {str(name): (float(total), float(count)) for name, (total, count) in metrics.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise BadInput(f"a trainer must return metrics as name -> (sum, count), not {metrics!r}") from error


def _failure(shard: Shard, error: BaseException) -> jobs.Failed:
    # Readers speak of bad data with ValueError, the core with FLError: one line is enough.
    bad_data = isinstance(error, ValueError) and shard.where.startswith("file ")
    if isinstance(error, FLError) or bad_data:
        return jobs.Failed(shard.where, str(error), bad_input=True)
    return jobs.Failed(shard.where, "".join(traceback.format_exception(error)).rstrip(), bad_input=False)


def _orphaned(lifeline: int, store: Path) -> NoReturn:
    """Leaves because nobody listens, and takes the files of the store along if the simulator is gone."""
    # A simulator that lives on needs its store: it starts another shard in this one's place.
    if select.select([lifeline], [], [], _ALL_CLOSE_SECONDS)[0]:
        remove_folder(store)
    os._exit(1)


def _die_with_parent(lifeline: int, store: Path) -> None:
    """Leaves as soon as the simulator is gone, however it went and whatever this shard is at."""

    def watch() -> None:
        os.read(lifeline, 1)  # returns only when the other end is closed
        _orphaned(lifeline, store)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _next_job(connection: Connection, shard: Shard, *, short: bool) -> Any:
    """Waits for a job; one that was told ahead begins as soon as its parameters are there.

    Args:
        connection: to the simulator.
        shard: gets ready for what was told.
        short: whether to look for it for a moment before falling asleep.

    Raises:
        EOFError, OSError: the simulator is gone.
    """
    while True:
        if short:
            linger(connection.fileno())
        job = connection.recv()
        if isinstance(job, jobs.Go):
            continue  # its job has begun without it, and is done
        if not isinstance(job, jobs.Ahead):
            return job
        coming = job.job

        def due(coming: jobs.TrainShare = coming) -> bool:
            return shard.is_due(coming)

        shard.get_ready(job, due)
        if short:
            linger(connection.fileno(), until=due)
        if due():
            return coming
        job = connection.recv()
        return coming if isinstance(job, jobs.Go) else job


def main(pipe: int, lifeline: int) -> None:
    """The life of a shard process.

    Args:
        pipe: file descriptor of the pipe to the simulator.
        lifeline: file descriptor that ends when the simulator does.
    """
    # Ctrl-C goes to the whole group; the simulator decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Paddle speaks of ccache and the like at import; nobody compiles anything here.
    warnings.filterwarnings("ignore", module="paddle")
    connection = Connection(pipe)
    main_module = connection.recv()
    # The reader and the trainer may be classes of the main script, as with multiprocessing.
    multiprocessing.spawn.prepare(main_module)
    settings: jobs.ShardSettings = connection.recv()
    _die_with_parent(lifeline, settings.store)
    set_up_logging(f"rank {settings.rank} shard {settings.index}")
    shard = Shard(settings)
    short = False
    while True:
        try:
            job = _next_job(connection, shard, short=short)
        except (EOFError, OSError):
            _orphaned(lifeline, settings.store)
        if isinstance(job, jobs.Stop):
            return
        began = time.perf_counter()
        try:
            answer: Any = jobs.Done(shard.run(job))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the simulator ends the run with it
            answer = _failure(shard, error)
        short = settings.linger and time.perf_counter() - began < SHORT_JOB_SECONDS
        try:
            connection.send(answer)
        except OSError:
            _orphaned(lifeline, settings.store)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
