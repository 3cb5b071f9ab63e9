"""A shard's work: it reads files, trains and evaluates users one after another, as its simulator asks."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from protos.codec import Tensors
from protos.errors import BadInput
from scheduler.rules.algorithm import Group, Shapes, personalises
from scheduler.rules.exact_sum import ExactSum
from scheduler.rules.metrics import UserResult
from scheduler.rules.samplers import Round
from scheduler.state.frozen import digest_of
from scheduler.state.rounds import TEST, TRAIN
from simulator.contracts import Examples
from simulator.launch.signals import leave_to_simulator
from simulator.shards import jobs
from simulator.shards.work_queue import WorkQueue
from simulator.users.data_client import DataClient
from simulator.users.store import UserStore
from simulator.worker.clock import Clock
from simulator.worker.fetched_examples import FetchedExamples
from simulator.worker.file_reading import prepare, read_files
from simulator.worker.quick_flags import quicken_flags
from simulator.worker.round_arrays import RoundArrays, full_name
from simulator.worker.round_memory import RoundMemory
from simulator.worker.user_state import UserState
from simulator.worker.weighing import check_same_weight, weight_of, weight_of_piece

if TYPE_CHECKING:
    from simulator.worker.turn import EvaluatedUser
    from simulator.worker.user_state import Loaded


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
        self._fetched: FetchedExamples | None = None
        self._model: Any = None
        # Of the model: what users keep, and an algorithm's groups beside it.
        self._state: Any = None
        self._groups: Mapping[str, Group] = {}
        self._equal: list[str] = []
        self._memory: RoundMemory | None = None
        self._rows: Any = None
        self._evaluation: Any = None
        self._groups_of_users: Any = None
        self._turns: Any = None
        self.where = ""
        self._do: dict[type, Callable[[Any], Any]] = {
            jobs.Connect: self._connect,
            jobs.Prepare: self._prepare,
            jobs.Setup: self._setup,
            jobs.ReadFiles: self._read_files,
            jobs.WeighUsers: self._weigh_users,
            jobs.BuildModel: self._build_model,
            jobs.Attach: self._attach,
            jobs.UseMemory: lambda job: self._round.use(job.handle),
            jobs.ReadFrozen: self._read_frozen,
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
        self._fetched = FetchedExamples(self._data)

    def _prepare(self, job: jobs.Prepare) -> str:
        self.where = f"file {job.data}"
        return prepare(self._is.reader, job)

    def _setup(self, job: jobs.Setup) -> None:
        self._is.reader.setup(job.shared)

    def _read_files(self, job: jobs.ReadFiles) -> jobs.FilesRead:
        weigh = partial(weight_of_piece, self._is.trainer) if self._is.weighted and job.split == TRAIN else None
        return read_files(
            self._is.reader, self._client, job, self._jobs(), lambda path: self._at(f"file {path}"), weigh
        )

    def _weigh_users(self, job: jobs.WeighUsers) -> dict[str, float]:
        weights = {}
        for i in self._jobs():
            uid = job.uids[i]
            self.where = jobs.describe_part(job, i)
            weights[uid] = weight_of(self._is.trainer, uid, self._client.get_data_by_uid(uid, job.date, TRAIN))
        return weights

    def _at(self, where: str) -> None:
        self.where = where

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
        from simulator.worker.group_tests import GroupTests, examples_together
        from simulator.worker.private_start import build_model
        from simulator.worker.touched_rows import TouchedRows

        self.where = f"{type(self._is.trainer).__name__}.make_model"
        algorithm = self._is.algorithm
        model = self._model = build_model(self._is.trainer, self._is.seed, self._is.private, algorithm.private)
        leave_to_simulator()
        if self._is.tune:
            quicken_flags()
        self._rows = TouchedRows(model)
        self._evaluation = Evaluation(model, changes=personalises(algorithm))
        self._groups_of_users = GroupTests(model, self._evaluation, self._at)
        shapes = Shapes(
            {n: model.specs[n] for n in model.shared}, {n: model.specs[n] for n in model.trained}, model.layers
        )
        algorithm.check(shapes)
        for each in self._is.filters:
            each.check(shapes)
        self._groups = algorithm.groups(shapes)
        for name in self._groups:
            if not name.isidentifier() or name == "state":
                raise BadInput(f"{algorithm}: a group cannot be called {name!r}: a plain name, and not 'state'")
        self._equal = [name for name, group in self._groups.items() if group.weight == "one"]
        self._state = UserState(algorithm, self._is.filters, shapes, getattr(self._is.trainer, "local_rule", None))
        # What Paddle's import left behind stays for good: the collector need not visit it again and again.
        gc.collect()
        gc.freeze()
        groups = {full_name(g, name): spec for g, group in self._groups.items() for name, spec in group.specs.items()}
        private = {name: model.specs[name] for name in model.private}
        self.where = f"{type(self._is.trainer).__name__}.tests_together"
        together = examples_together(self._is.trainer, algorithm, model)
        frozen = {name: model.specs[name] for name in model.frozen}
        digest, state = digest_of(model.frozen_values()), self._state.specs
        return jobs.ModelSchema(dict(shapes.shared), groups, private, state, model.layers, together, frozen, digest)

    def _read_frozen(self, job: jobs.ReadFrozen) -> Tensors:
        frozen: Tensors = self._model.frozen_values()
        return frozen

    def _attach(self, job: jobs.Attach) -> None:
        memory = self._memory = RoundMemory(self._is.params_fd, self._is.sums_fd, job.arrays, self._groups)
        if job.write_initial:
            memory.write_model(self._model.shared, self._model.read)
        if self._is.index == 0:
            # Of the first simulator they are the run's.
            memory.write_starts()

    @property
    def _round(self) -> RoundMemory:
        assert self._memory is not None, "Attach comes first"
        return self._memory

    def _start_private(self, job: jobs.StartPrivate) -> None:
        from simulator.worker.private_start import PrivateStart
        from simulator.worker.user_turns import UserTurns

        self._model.set_frozen(job.frozen)
        if digest_of(self._model.frozen_values()) != job.frozen_digest:
            raise BadInput(
                "frozen parameters differ from process to process: let make_model draw them from Paddle's, NumPy's or "
                "Python's global generator, which are seeded, or give them by --init"
            )
        alike = self._is.algorithm.starts_alike
        start = PrivateStart(self._is.trainer, self._is.seed, self._model, job.given, alike=alike)
        self._turns = UserTurns(self._is, self._model, self._state, start, self._client)

    # -- users -----------------------------------------------------------------

    def is_due(self, job: jobs.TrainShare) -> bool:
        """Whether the parameters of a round are known to be there."""
        return self._memory is not None and self._memory.params.stamped(job.at.step)

    def get_ready(self, ahead: jobs.Ahead, due: Callable[[], bool]) -> None:
        """Fetches examples of users it may have to train next, until the round begins."""
        self._examples.fetch(ahead.job.at.date, ahead.job.share.uids[self._is.index :: ahead.lanes], due)

    @property
    def _examples(self) -> FetchedExamples:
        assert self._fetched is not None, "Connect comes first"
        return self._fetched

    def _train_share(self, job: jobs.TrainShare) -> jobs.ShareResult:
        clock, results, trainer = Clock(), [], self._is.trainer
        begin = self._begin_share()
        shared = begin.model
        self._rows.begin_share()
        # What is said of rows is said of plain SGD.
        changes_all = self._is.algorithm.changes_all or getattr(trainer, "local_rule", None) is not None
        exact = ExactSum(self._round.sums, job.share.cohort_size, job.share.exponent)
        for i in self._jobs():
            uid = job.share.uids[i]
            clock.begin(uid)
            user = self._load_user(uid, job.at, TRAIN, shared)
            # Before training, which might change the examples.
            weight = self._weight(uid, user.examples, job.share.weights[i])
            rows = {} if changes_all else trainer.touched_rows(user.examples)
            self._rows.before(uid, rows, shared)
            clock.lap("pull")
            metrics, local = self._turns.train(user, weight, begin)
            clock.lap("train")
            self._turns.keep(user)
            self._rows.after_training(rows, shared)
            # The model then holds the round's parameters again.
            local.add_to(exact, job.share.cohort_size, self._equal, rows)
            results.append(UserResult(uid, job.share.counts[i], weight, metrics, local.scalars))
            clock.lap("push")
        self._model.put_back(shared)
        self._rows.end_share(shared)
        self._examples.clear()
        return jobs.ShareResult(results, clock.timings())

    def _weight(self, uid: str, examples: Examples, told: float) -> float:
        if self._is.weighted:
            check_same_weight(self._is.trainer, uid, weight_of(self._is.trainer, uid, examples), told)
        return told

    def _begin_share(self) -> RoundArrays:
        """Has the model hold the shared parameters as they are now, whatever the last share has left."""
        begins = self._round.begins
        self._model.put_back(begins.model)
        self._model.load(begins.model)
        return begins

    def _train_in_turn(self, job: jobs.TrainInTurn) -> jobs.ShareResult:
        clock, results = Clock(), []
        self._begin_share()
        for i in self._jobs():
            uid = job.share.uids[i]
            clock.begin(uid)
            # The shared parameters go on from user to user.
            user = self._load_user(uid, job.at, TRAIN, None)
            clock.lap("pull")
            metrics = self._turns.train_plainly(user)
            clock.lap("train")
            self._turns.keep(user)
            results.append(UserResult(uid, job.share.counts[i], 0.0, metrics))
            clock.lap("push")
        room = jobs.result_room(self._round.sums, {name: self._model.specs[name] for name in self._model.shared})
        for name, target in room.items():
            target[...] = self._model.read(name)
        clock.lap("push")
        return jobs.ShareResult(results, clock.timings())

    def _evaluate_share(self, job: jobs.EvaluateShare) -> jobs.ShareResult:
        clock = Clock()
        begin = self._begin_share()

        def test(i: int) -> UserResult:
            uid = job.share.uids[i]
            clock.begin(uid)
            user = self._load_user(uid, job.at, TEST, begin.model)
            clock.lap("pull")
            metrics = self._turns.test(user, begin, job.trained_on)
            clock.lap("train")
            return UserResult(uid, job.share.counts[i], 0.0, metrics)

        if not job.share.groups:
            return jobs.ShareResult(self._evaluation.run(self._jobs(), begin.model, test), clock.timings())
        results: list[UserResult] = []
        for number in self._jobs():
            group, where = jobs.group_of(job.share, number), jobs.describe_part(job, number)
            users = self._bring_group(where, group, job)
            clock.lap("pull")
            together = partial(self._test_together, job, group, users, begin.model)
            results += self._groups_of_users.run(where, group, begin.model, together, test)
            clock.lap("train")
        return jobs.ShareResult(results, clock.timings())

    def _bring_group(self, where: str, group: range, job: jobs.EvaluateShare) -> Sequence[EvaluatedUser]:
        """Fetches all that a group needs, before it is tested: what cannot be had is not the test's fault."""
        self.where = where
        uids = [job.share.uids[i] for i in group]
        users: Sequence[EvaluatedUser] = self._turns.bring(
            job.at, {uid: self._examples.take(uid, job.at.date, TEST) for uid in uids}, job.trained_on
        )
        return users

    def _test_together(
        self, job: jobs.EvaluateShare, group: range, users: Sequence[EvaluatedUser], shared: Tensors
    ) -> list[UserResult]:  # fmt: skip
        metrics = self._turns.test_together(job.at, users, shared)
        told = zip(group, users, metrics, strict=True)
        return [UserResult(user.uid, job.share.counts[i], 0.0, each) for i, user, each in told]

    def _load_user(self, uid: str, at: Round, split: str, shared: Tensors | None) -> Loaded:
        """Fetches a user's examples and has its own parameters in the model; see `UserTurns.load`."""
        self.where = jobs.describe_turn(uid, at)
        user: Loaded = self._turns.load(uid, at, self._examples.take(uid, at.date, split), shared)
        return user
