"""A shard's work: it reads files, trains and evaluates users one after another, as its simulator asks."""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from protos.codec import Tensors
from protos.errors import BadInput, FLError
from protos.shared_arrays import SharedArrays
from scheduler.rules.exact_sum import ExactSum, Sums, sum_specs
from scheduler.rules.metrics import Pair, UserResult
from scheduler.rules.samplers import Round
from scheduler.rules.streams import stream_key, stream_of
from scheduler.state.read_users import ReadUsers
from scheduler.state.rounds import TEST, TRAIN, Timings
from simulator.launch.signals import leave_to_simulator
from simulator.shards import jobs
from simulator.shards.work_queue import WorkQueue
from simulator.users.data_client import DataClient
from simulator.users.examples import Examples
from simulator.users.store import UserStore
from simulator.worker.dtype_hint import explain_float64
from simulator.worker.file_reading import read_files
from simulator.worker.weighing import check_same_weight, weight_of, weight_of_piece

# Of examples fetched before their round.
FETCH_BYTES = 4 << 20


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
        self._rows: Any = None
        self._evaluation: Any = None
        # Examples of the round to come, by date and uid.
        self._fetched: dict[tuple[str, str], Examples] = {}
        self.where = ""
        self._do: dict[type, Callable[[Any], Any]] = {
            jobs.Connect: self._connect,
            jobs.Prepare: self._prepare,
            jobs.Setup: self._setup,
            jobs.ReadFiles: self._read_files,
            jobs.WeighUsers: self._weigh_users,
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
        self._data = DataClient(job.addresses, job.keys, self._store)
        self._data.connect()

    def _prepare(self, job: jobs.Prepare) -> str:
        self.where = f"file {job.data}"
        return json.dumps(self._is.reader.prepare(job.data, job.files))

    def _setup(self, job: jobs.Setup) -> None:
        self._is.reader.setup(job.shared)

    def _read_files(self, job: jobs.ReadFiles) -> ReadUsers:
        weigh = partial(weight_of_piece, self._is.trainer) if self._is.weighted and job.split == TRAIN else None
        return read_files(self._is.reader, self._client, job, self._jobs(), self._at_file, weigh)

    def _weigh_users(self, job: jobs.WeighUsers) -> dict[str, float]:
        weights = {}
        for i in self._jobs():
            uid = job.uids[i]
            self.where = jobs.describe_part(job, i)
            weights[uid] = weight_of(self._is.trainer, uid, self._client.get_data_by_uid(uid, job.date, TRAIN))
        return weights

    def _at_file(self, path: Path) -> None:
        self.where = f"file {path}"

    @property
    def _client(self) -> DataClient:
        assert self._data is not None, "Connect comes first"
        return self._data

    def _jobs(self) -> Iterator[int]:
        while (job := self._queue.take(self._is.index)) is not None:
            yield job

    # -- model -----------------------------------------------------------------

    def _build_model(self, job: jobs.BuildModel) -> jobs.ModelSchema:
        from simulator.worker.evaluation import Evaluation
        from simulator.worker.model_state import build_model
        from simulator.worker.touched_rows import TouchedRows

        self.where = f"{type(self._is.trainer).__name__}.make_model"
        model = self._model = build_model(self._is.trainer, self._is.seed, self._is.private)
        leave_to_simulator()
        self._rows, self._evaluation = TouchedRows(model), Evaluation(model)
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
        from simulator.worker.model_state import PrivateStart

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
        assert self._sums is not None
        clock, results = _Clock(), []
        shared = self._begin_share()
        self._rows.begin_share()
        exact = ExactSum(self._sums, job.share.cohort_size, job.share.exponent)
        for i in self._jobs():
            uid = job.share.uids[i]
            examples = self._load_user(uid, job.at, TRAIN, shared)
            # Before training, which might change the examples.
            weight, rows = self._weight(uid, examples, job.share.weights[i]), self._is.trainer.touched_rows(examples)
            self._rows.before(uid, rows, shared)
            clock.lap("pull")
            metrics = self._train_user(uid, job.at, examples)
            clock.lap("train")
            self._rows.after_training(rows, shared)
            for name in self._model.shared:
                # The model then holds the round's parameters again.
                exact.take(name, self._model.read(name), shared[name], weight, uid, rows.get(name))
            self._store_private(uid, job.at)
            results.append(UserResult(uid, job.share.counts[i], weight, metrics))
            clock.lap("push")
        self._model.put_back(shared)
        self._rows.end_share(shared)
        # Those of users that another shard has trained.
        self._fetched.clear()
        return jobs.ShareResult(results, clock.timings())

    def _weight(self, uid: str, examples: Examples, told: float) -> float:
        if self._is.weighted:
            check_same_weight(self._is.trainer, uid, weight_of(self._is.trainer, uid, examples), told)
        return told

    def _begin_share(self) -> Tensors:
        """Has the model hold the shared parameters as they are now, whatever the last share has left; returns them."""
        assert self._params is not None
        self._model.put_back(self._params.arrays)
        self._model.load(self._params.arrays)
        return self._params.arrays

    def _train_in_turn(self, job: jobs.TrainInTurn) -> jobs.ShareResult:
        assert self._sums is not None
        clock, results = _Clock(), []
        self._begin_share()
        for i in self._jobs():
            uid = job.share.uids[i]
            # The shared parameters go on from user to user.
            examples = self._load_user(uid, job.at, TRAIN, None)
            clock.lap("pull")
            metrics = self._train_user(uid, job.at, examples)
            clock.lap("train")
            self._store_private(uid, job.at)
            results.append(UserResult(uid, job.share.counts[i], 0.0, metrics))
            clock.lap("push")
        self._write_params(jobs.result_room(self._sums, {name: self._model.specs[name] for name in self._model.shared}))
        clock.lap("push")
        return jobs.ShareResult(results, clock.timings())

    def _evaluate_share(self, job: jobs.EvaluateShare) -> jobs.ShareResult:
        clock = _Clock()
        shared = self._begin_share()

        def test(i: int) -> UserResult:
            uid = job.share.uids[i]
            examples = self._load_user(uid, job.at, TEST, shared)
            clock.lap("pull")
            self._model.model.eval()
            metrics = self._play(self._is.trainer.evaluate_user, examples, self._turn(TEST, uid, job.at))
            clock.lap("train")
            return UserResult(uid, job.share.counts[i], 0.0, metrics)

        results = self._evaluation.run(self._jobs(), shared, test)
        return jobs.ShareResult(results, clock.timings())

    def _load_user(self, uid: str, at: Round, split: str, shared: Tensors | None) -> Examples:
        """Fetches a user's examples and puts its private parameters into the model, from which the last user is gone.

        Args:
            uid: the user.
            at: the round.
            split: of the examples.
            shared: see `ModelState.put_back`.
        """
        self.where = jobs.describe_turn(uid, at)
        examples = self._examples(uid, at.date, split)
        self._model.put_back(shared)
        if self._model.private:
            private = self._client.get_param_by_uid(uid, at.step)
            self._model.load(self._private_start.of(uid) if private is None else private)
        return examples

    def _examples(self, uid: str, date: str, split: str) -> Examples:
        fetched = self._fetched.pop((date, uid), None) if split == TRAIN else None
        return self._client.get_data_by_uid(uid, date, split) if fetched is None else fetched

    def _train_user(self, uid: str, at: Round, examples: Examples) -> dict[str, Pair]:
        self._model.model.train()
        metrics = self._play(self._is.trainer.train_user, examples, self._turn(TRAIN, uid, at))
        self._model.check_structure()
        return metrics

    def _play(self, method: Callable[..., Any], examples: Examples, turn: Turn) -> dict[str, Pair]:
        """A user's turn in the trainer; returns the metrics."""
        try:
            metrics = method(self._model.model, examples, turn)
        except Exception as error:
            told = explain_float64(error, turn.uid, examples, self._model.specs, type(self._is.reader).__name__)
            if told is None:
                raise
            raise told from error
        return _checked(type(self._is.trainer).__name__, metrics)

    def _turn(self, phase: str, uid: str, at: Round) -> Turn:
        from simulator.worker.model_state import seed_everything

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


def _checked(trainer: str, metrics: Any) -> dict[str, Pair]:
    """A trainer's metrics as plain floats.

    Raises:
        BadInput: not name -> (sum, count).
    """
    try:
        return {str(name): (float(total), float(count)) for name, (total, count) in metrics.items()}
    except (AttributeError, TypeError, ValueError) as error:
        said = " ".join(repr(metrics).split())[:200]
        raise BadInput(f"{trainer} must return metrics as name -> (sum, count), not {said}") from error
