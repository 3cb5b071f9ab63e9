"""A simulator from start to end: its servers and shards, the model, the checkpoint to go on from, all days."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from protos.codec import Tensors
from protos.errors import FLError, PeerLost, RunEnded, RunStopped
from protos.shared_arrays import SharedArrays
from protos.sockets import UNIX
from scheduler.rules.samplers import NoTestSampler
from scheduler.rules.streams import owner_of
from scheduler.service.client import SchedulerClient
from scheduler.service.messages import Layout, SimulatorInfo
from scheduler.state.partition import Partition
from scheduler.state.rounds import TRAIN, Rules
from scheduler.state.stopping import Stop
from simulator.checkpoints.files import FOLDER
from simulator.checkpoints.private_saver import PrivateSaver
from simulator.checkpoints.resume import Resumed, agree_on_checkpoint
from simulator.days import DayPlan, list_days, plan_days
from simulator.exchange.peer_group import PeerGroup
from simulator.exchange.peer_server import PeerServicer
from simulator.exchange.peer_sums import PeerSums
from simulator.exchange.transport import Exchanged, InMemory, Streamed, Transport, use_memory
from simulator.launch.role_maker import FLSimRoleMaker
from simulator.output.private_files import save_private
from simulator.run.day_player import DayPlayer
from simulator.run.initial_model import agree_on_model, spread_private_start, take_initial
from simulator.settings import Settings
from simulator.shards import jobs
from simulator.shards.pool import ShardPool
from simulator.shards.sending import sendable
from simulator.users.data_client import DataClient
from simulator.users.data_server import PrivateSchema, start_data_server
from simulator.users.scratch import ScratchFolder, remove_abandoned
from simulator.users.seat import Seat
from simulator.users.store import UserStore

logger = logging.getLogger(__name__)

# From a broken connection to the end of the watch, which tells whether the run has failed elsewhere.
_LAST_WORDS_SECONDS = 2.0
# Between two looks whether the run has failed, while a checkpoint is written.
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Task:
    """What a user writes: how data is read and how a user trains."""

    reader: Any
    trainer: Any


class Simulation:
    """One simulator of a run.

    Args:
        role: which rank this is.
        settings: of the run.
        rules: of its rounds.
        task: the reader and the trainer.
        scheduler: address of the scheduler.
        output: folder of the record, for private parameters.
        resumed: whether the run goes on from a checkpoint.
    """

    def __init__(
        self, role: FLSimRoleMaker, settings: Settings, rules: Rules, task: Task, scheduler: str, output: Path, *,
        resumed: bool,
    ) -> None:  # fmt: skip
        self._role, self._settings, self._rules, self._task = role, settings, rules, task
        self._scheduler, self._output, self._goes_on = scheduler, output, resumed
        self._leader = role.rank == role.simulator_ranks[0]
        self._client = SchedulerClient(scheduler, role.keys)
        self._scratch: ScratchFolder | None = None
        self._store: UserStore | None = None
        self._pool: ShardPool | None = None
        self._server: grpc.Server | None = None
        self._layout: Layout | None = None
        self._params: SharedArrays | None = None
        self._schema = PrivateSchema()
        self._seat = Seat(role.rank, role.simulator_ranks[0])
        self._peers = PeerServicer(rules.seed, self._server_crashed)
        self._transport: Transport | None = None
        # What went wrong here while the main thread was waiting for something else.
        self.failure: str | None = None
        # What the scheduler's watch has ended with.
        self._last_words: FLError | None = None
        self._over = threading.Event()
        # How the run stops before its last round, if it does.
        self.stopped: Stop | None = None
        # Whether that, or the end, is known.
        self._told = threading.Event()
        self._saver: PrivateSaver | None = None
        self._resumed: Resumed | None = None

    # -- the run ---------------------------------------------------------------

    def run(self) -> None:
        """Plays all days, or as many rounds as the run has if it stops before.

        Raises:
            FLError: of this simulator, of the scheduler, or RunEnded.
            ShardCrash: an exception in user code.
        """
        try:
            try:
                self._play_run()
            except RunStopped:
                self._leave_early()
        except PeerLost as lost:
            # The scheduler may have said why the run has failed a moment before it closed its connections.
            self._over.wait(_LAST_WORDS_SECONDS)
            if isinstance(self._last_words, RunEnded):
                raise self._last_words from lost
            raise

    def _play_run(self) -> None:
        self._start()
        self._join()
        if self._goes_on:
            self._resumed = agree_on_checkpoint(self._client, self._output / FOLDER)
        self._make_model()
        days = plan_days(
            self.layout.days,
            train_last_day=self._settings.train_last_day,
            test=not isinstance(self._rules.test_sampler, NoTestSampler),
        )
        self._prepare_reader(days)
        first = 0 if self._resumed is None else self._resumed.first_day(days, self._rules.rounds, self._settings.data)
        done = self._first_step - first * self._rules.rounds
        player = self._make_player()
        for number, day in enumerate(days[first:]):
            player.play(day, done if number == 0 else 0)
        if self._saver is not None:
            self._saver.wait()
        if self._schema.specs():
            save_private(self.store, self._output)
        self._client.exit()

    def _leave_early(self) -> None:
        """The run stops, and what was begun does not count: writes this simulator's part of its checkpoint."""
        # The call that was ended by it may be faster than the watch, which says all of it.
        self._told.wait()
        if self.stopped is None:
            raise self._last_words or RunEnded("the run has ended")
        if self.stopped.saves and self._saver is not None:
            # Users whose shard has trained the next round already are written as they were before it.
            self._saver.begin(self.stopped.step)
            while not self._saver.wait(_LOOK_SECONDS):
                if self._over.is_set():
                    raise self._last_words or RunEnded("the run has ended")
        if self.stopped.finishes and self._schema.known:
            save_private(self.store, self._output, self.stopped.step)
        self._client.exit()

    def request_stop(self, reason: str) -> None:
        """Asks the scheduler to stop the run; called from another thread."""
        try:
            self._client.request_stop(reason)
        except (FLError, ValueError) as error:
            # ValueError: this simulator has closed its connection, since it is done.
            logger.debug("the scheduler could not be asked to stop: %s", error)

    def close(self, *, at_once: bool = False) -> None:
        """Ends shards and servers and removes the scratch folder; `at_once` waits for nobody."""
        if at_once and self._scratch is not None:
            # First of all: as soon as another rank has left, the launcher may kill this one.
            self._scratch.remove()
        if self._server is not None:
            self._server.stop(None if at_once else 1.0)
        if self._transport is not None:
            self._transport.close()
        if self._store is not None:
            self._store.close()
        if self._scratch is not None:
            self._scratch.remove()
        self._params = self._transport = None
        # After the folder: if this rank is killed before, they remove it.
        if self._pool is not None:
            # In a run that has stopped they may still be at a round that does not count.
            if at_once or self.stopped is not None:
                self._pool.kill()
            else:
                self._pool.close()
        if at_once and self._scheduler.startswith(UNIX):
            # Rank 0 removes it itself, unless it was killed.
            with contextlib.suppress(OSError):
                remove_abandoned(Path(self._scheduler.removeprefix(UNIX)).parent)
        # A scheduler that is elsewhere watches a run that has stopped until the end of its processes.
        if self.stopped is None or self._role.is_scheduler():
            self._client.close()

    def report_failure(self, message: str) -> None:
        """Tells the scheduler why this simulator cannot go on, if it still listens."""
        try:
            self._client.report_failure(message)
        except FLError as error:
            logger.debug("the failure could not be reported: %s", error)

    @property
    def layout(self) -> Layout:
        """All simulators of the run."""
        assert self._layout is not None, "join comes first"
        return self._layout

    @property
    def params(self) -> SharedArrays:
        """This machine's copy of the shared parameters."""
        assert self._params is not None, "the model comes first"
        return self._params

    @property
    def pool(self) -> ShardPool:
        """The shards."""
        assert self._pool is not None, "start comes first"
        return self._pool

    @property
    def store(self) -> UserStore:
        """The users that are kept here."""
        assert self._store is not None, "start comes first"
        return self._store

    @property
    def transport(self) -> Transport:
        """How parameters and sums travel."""
        assert self._transport is not None, "the model comes first"
        return self._transport

    @property
    def _first_step(self) -> int:
        """The global round this run begins with."""
        return 0 if self._resumed is None else self._resumed.offer.step

    # -- start -----------------------------------------------------------------

    def _start(self) -> None:
        self._scratch = ScratchFolder()
        self._store = UserStore(self._scratch.path)
        shards = self._settings.shards
        if shards is None:
            shards = self._role.cores_for_shards()
            if kept := self._role.cores_out_of_reach():
                logger.warning("%s", kept)
        self._pool = ShardPool(
            shards,
            tune=self._settings.tune,
            rank=self._role.rank,
            seed=self._rules.seed,
            weighted=self._rules.weighs,
            private=self._settings.private or None,
            reader=sendable(self._task.reader),
            trainer=sendable(self._task.trainer),
            store=self._scratch.path,
        )
        ranks = self._role.simulator_ranks
        self._server, address = start_data_server(
            self._store,
            self._schema,
            owns=lambda uid: owner_of(uid, ranks) == self._role.rank,
            where=self._role.where_to_listen(self._scratch.path),
            on_crash=self._server_crashed,
            gate=self._role.gate,
            seat=self._seat,
            # Of each other simulator: shards that fetch users, sums that wait for their round, a wait for parameters.
            threads=4 + 4 * len(ranks),
            credentials=self._role.keys.credentials,
            also=self._peers.register,
        )
        days = tuple(list_days(self._settings.data))
        self._info = SimulatorInfo(self._role.rank, self._role.host, address, shards, days)

    def _join(self) -> None:
        self._client.watch(self._run_ended, self._run_stops)
        self._layout = self._client.register(self._info)
        self.pool.ask_all(jobs.Connect(self._addresses(), self._role.keys))

    def _addresses(self) -> dict[int, str]:
        """Of all data servers, by rank."""
        return {info.rank: info.data_address for info in self.layout.simulators}

    def _run_ended(self, error: FLError | None) -> None:
        self._last_words = error
        self._over.set()
        self._told.set()
        if error is not None:
            self._interrupt(error)

    def _run_stops(self, stop: Stop) -> None:
        self.stopped = stop
        self._told.set()
        self._interrupt(RunStopped(str(stop)))

    def _server_crashed(self, error: BaseException) -> None:
        text = "".join(traceback.format_exception(error)).rstrip()
        self._interrupt(FLError(f"the data server of rank {self._role.rank} failed:\n{text}"))

    def _interrupt(self, error: FLError) -> None:
        """Ends whatever the main thread waits for here; what it waits for from the scheduler ends by itself."""
        self.pool.interrupt(error)
        if self._transport is not None:
            self._transport.fail(error)

    def _make_model(self) -> None:
        """Builds the model in every shard; the first simulator's becomes the run's."""
        schema: jobs.ModelSchema = self.pool.ask_all(jobs.BuildModel())[0]
        init = self._settings.init
        self._params = self.pool.attach(schema.shared, write_initial=self._leader and init is None)
        private: Tensors = {}
        if self._leader and init is not None:
            private = take_initial(init, schema, self._params.arrays)
        self._schema.set(schema.private)
        names = agree_on_model(self._client, schema, list(private), self._role.rank, self._role.simulator_ranks[0])
        if self._leader:
            self._client.update_global_params(self._params.arrays, list(schema.private))
        if names:
            data = DataClient(self._addresses(), self._role.keys, self.store)
            private = spread_private_start(self._client, data, names, private, self._schema)
            data.close()
        self.pool.ask_all(jobs.StartPrivate(private))
        in_memory = self._settings.shared_memory and use_memory(self._client, self.pool, schema.shared)
        self._transport = self._choose_transport(schema, in_memory=in_memory)
        if schema.private:
            self._keep_private()

    def _choose_transport(self, schema: jobs.ModelSchema, *, in_memory: bool) -> Transport:
        """Agrees with all simulators on who exchanges parameters and sums with whom."""
        group = self._client.choose_exchange(streams=not in_memory)
        if self._leader and self._settings.exchange == "always" and not group:
            logger.info("--exchange always has nothing to do: no simulator exchanges with others in this run")
        if in_memory:
            return InMemory(self._client, self.pool)
        if self._role.rank not in group:
            return Streamed(self._client, self.pool, self.params.arrays)
        parts = Partition(schema.shared, group)
        peer_sums = PeerSums(self._role.rank, parts, self.params.arrays, self._first_step)
        # The others come only after the next exchange, which all wait for.
        self._peers.meet(peer_sums)
        peers = PeerGroup(self._role.keys, self._addresses(), parts, peer_sums)
        return Exchanged(self._client, self.pool, self.params.arrays, peers)

    def _prepare_reader(self, days: list[DayPlan]) -> None:
        """Has one shard in the whole run prepare what all readers share."""
        shared = b""
        if self._leader:
            data = self._settings.data
            files = self._task.reader.files(data / days[0].date, TRAIN)
            shared = self.pool.ask(jobs.Prepare(data, tuple(files))).encode()
        posted = self._client.exchange("reader", shared)
        self.pool.ask_all(jobs.Setup(json.loads(posted[self._role.simulator_ranks[0]])))

    def _make_player(self) -> DayPlayer:
        return DayPlayer(
            self._client,
            self.pool,
            self.transport,
            self._rules,
            self._settings,
            files=self._task.reader.files,
            rank=self._role.rank,
            lanes={info.rank: info.shards for info in self.layout.simulators},
            store=self.store,
            days=self._seat.days,
            params=self.params.arrays,
            saver=self._saver,
            step=self._first_step,
        )

    # -- checkpoints -----------------------------------------------------------

    def _keep_private(self) -> None:
        """Takes back what a checkpoint knows of private parameters, and gets ready for the next one."""
        folder = self._output / FOLDER
        if self._resumed is not None:
            client = DataClient(self._addresses(), self._role.keys, self.store)
            self._resumed.restore_private(folder, self._role.rank, client)
            client.close()
            # Nobody trains before all private parameters are back at their owners.
            self._client.exchange("restored", b"")
        self._saver = PrivateSaver(
            self.store, folder, self._role.rank, self._client.report_segments, self._segment_failed
        )

    def _segment_failed(self, error: FLError) -> None:
        """Ends the run for all: a checkpoint that cannot be written would only be missed after a crash."""
        self.failure = str(error)
        self._interrupt(error)
        self.report_failure(f"rank {self._role.rank}: {error}")
