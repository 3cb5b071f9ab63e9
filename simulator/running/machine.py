"""A simulator's first stage: what it has on its own machine, before it knows of any other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc

from protos.errors import FLError
from scheduler.rules.streams import owner_of
from scheduler.service.client import SchedulerClient
from scheduler.service.messages import SimulatorInfo
from scheduler.state.rounds import Rules
from simulator.contracts import Reader, Trainer
from simulator.days import list_days, takes_one_day
from simulator.exchange.peer_server import PeerServicer
from simulator.launch.role_maker import FLSimRoleMaker
from simulator.running.endings import Endings
from simulator.settings import Settings
from simulator.shards.pool import ShardPool
from simulator.shards.sending import sendable
from simulator.users.data_server import PrivateSchema, start_data_server
from simulator.users.scratch import ScratchFolder
from simulator.users.seat import Seat
from simulator.users.store import UserStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What a user writes: how data is read and how a user trains."""

    reader: Reader
    trainer: Trainer


@dataclass(frozen=True)
class Member:
    """A simulator as one of a run.

    Attributes:
        role: which rank it is.
        settings: of the run.
        rules: of its rounds.
        task: the reader and the trainer.
        output: folder of the record, for private parameters.
        resumed: whether the run goes on from a checkpoint.
        client: of the scheduler.
        endings: how it learns that the run is over.
    """

    role: FLSimRoleMaker
    settings: Settings
    rules: Rules
    task: Task
    output: Path
    resumed: bool
    client: SchedulerClient
    endings: Endings

    @property
    def leads(self) -> bool:
        """Whether it is the first simulator, which does what one does for all."""
        return self.role.rank == self.role.simulator_ranks[0]

    def report_failure(self, message: str) -> None:
        """Tells the scheduler why this simulator cannot go on, if it still listens."""
        try:
            self.client.report_failure(message)
        except (FLError, ValueError) as error:
            # ValueError: this simulator has closed its connection, since it is done.
            logger.debug("the failure could not be reported: %s", error)


class Closing:
    """What a simulator has to close, in the reverse order of its opening, whatever stage it has come to.

    Attributes:
        at_once: whether nobody is waited for.
    """

    def __init__(self) -> None:
        self.at_once = False
        self._stack = ExitStack()
        self._first: list[Callable[[], None]] = []

    def add(self, close: Callable[[], None]) -> None:
        """Adds what is to be closed before all that was added earlier."""
        self._stack.callback(close)

    def add_scratch(self, scratch: ScratchFolder) -> None:
        """Adds a folder.

        If all ends at once it goes first: when another rank has left, a launcher may kill this one.
        """
        self._first.append(scratch.remove)
        self.add(scratch.remove)

    def close(self, *, at_once: bool) -> None:
        """Closes all; nothing remains to be closed a second time."""
        self.at_once = at_once
        with self._stack:
            for remove in self._first if at_once else ():
                remove()
        self._first = []


@dataclass(frozen=True)
class Machine:
    """A simulator's own machine.

    Attributes:
        member: the simulator.
        store: the users that are kept here.
        pool: the shards.
        schema: of the private parameters, once the model is known.
        seat: of its data server.
        peers: where the others of its group meet it.
        info: what the others are told.
    """

    member: Member
    store: UserStore
    pool: ShardPool
    schema: PrivateSchema
    seat: Seat
    peers: PeerServicer
    info: SimulatorInfo


def open_machine(member: Member, closing: Closing) -> Machine:
    """Starts the shards and the data server.

    Args:
        member: the simulator.
        closing: gets all that is opened.
    """
    role, settings, endings = member.role, member.settings, member.endings
    with ExitStack() as undo:
        scratch = ScratchFolder()
        undo.callback(scratch.remove)
        pool = _start_shards(member, scratch)
        # The shards go after the folder: if this rank is killed before, they remove it.
        closing.add(lambda: _end_shards(pool, at_once=closing.at_once or endings.stopped is not None))
        closing.add_scratch(scratch)
        undo.pop_all()
    store = UserStore(scratch.path)
    closing.add(store.close)
    endings.interrupts(pool.interrupt)
    schema, seat = PrivateSchema(), Seat(role.rank, role.simulator_ranks[0])
    peers = PeerServicer(member.rules.seed)
    ranks = role.simulator_ranks
    server, address = start_data_server(
        store,
        schema,
        owns=lambda uid: owner_of(uid, ranks) == role.rank,
        where=role.where_to_listen(scratch.path),
        on_crash=endings.server_crashed,
        gate=role.gate,
        seat=seat,
        # Of each other simulator: shards that fetch users, sums that wait for their round, a wait for parameters.
        threads=4 + 4 * len(ranks),
        credentials=role.keys.credentials,
        also=peers.register,
    )
    closing.add(lambda: _stop(server, at_once=closing.at_once))
    days = tuple(list_days(settings.data, one_day=takes_one_day(member.task.reader)))
    info = SimulatorInfo(role.rank, role.host, address, len(pool), days)
    return Machine(member, store, pool, schema, seat, peers, info)


def _start_shards(member: Member, scratch: ScratchFolder) -> ShardPool:
    role, settings, rules = member.role, member.settings, member.rules
    shards = settings.shards
    if shards is None:
        shards = role.cores_for_shards()
        if kept := role.cores_out_of_reach():
            logger.warning("%s", kept)
    return ShardPool(
        shards,
        tune=settings.tune,
        rank=role.rank,
        seed=rules.seed,
        weighted=rules.weighs,
        algorithm=sendable(rules.algorithm),
        filters=tuple(sendable(each) for each in rules.filters),
        private=settings.private or None,
        reader=sendable(member.task.reader),
        trainer=sendable(member.task.trainer),
        store=scratch.path,
    )


def _end_shards(pool: ShardPool, *, at_once: bool) -> None:
    """Of a run that has stopped they may still be at a round that does not count."""
    if at_once:
        pool.kill()
    else:
        pool.close()


def _stop(server: grpc.Server, *, at_once: bool) -> None:
    server.stop(None if at_once else 1.0)
