"""A simulator's second and third stage: it knows the others, and all have one model."""

from __future__ import annotations

import json
import logging
from contextlib import closing
from dataclasses import dataclass

from protos.codec import Tensors
from protos.errors import FLError
from protos.shared_arrays import SharedArrays
from scheduler.service.messages import Layout
from scheduler.state.frozen import digest_of
from scheduler.state.partition import Partition
from scheduler.state.rounds import TRAIN
from simulator.checkpoints.files import FOLDER
from simulator.checkpoints.private_saver import PrivateSaver
from simulator.checkpoints.resume import Resumed, agree_on_checkpoint
from simulator.days import check_days, day_folder
from simulator.exchange.peer_group import PeerGroup
from simulator.exchange.peer_sums import PeerSums
from simulator.exchange.transport import Exchanged, InMemory, Streamed, Transport, use_memory
from simulator.running.day_player import DayPlayer
from simulator.running.initial_model import agree_on_model, get_frozen, spread_private_start, take_initial
from simulator.running.machine import Closing, Machine
from simulator.running.reader_cache import NoKey, ReaderCache, reader_cache
from simulator.shards import jobs
from simulator.users.data_client import DataClient

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Joined:
    """A simulator that knows the others.

    Attributes:
        machine: its own.
        layout: all simulators of the run.
        resumed: the checkpoint that all go on from; None for a new run.
    """

    machine: Machine
    layout: Layout
    resumed: Resumed | None

    @property
    def addresses(self) -> dict[int, str]:
        """Of all data servers, by rank."""
        return addresses_of(self.layout)

    @property
    def first_step(self) -> int:
        """The global round this run begins with."""
        return 0 if self.resumed is None else self.resumed.offer.step


@dataclass(frozen=True)
class Modelled:
    """A simulator whose shards have the run's model.

    Attributes:
        joined: the stage before.
        params: this machine's copy of the shared parameters.
        transport: how parameters and sums travel.
        saver: of private parameters; None if the model has none.
        together: see `jobs.ModelSchema`.
    """

    joined: Joined
    params: SharedArrays
    transport: Transport
    saver: PrivateSaver | None
    together: int

    def prepare_reader(self) -> ReaderCache | None:
        """Has one shard in the whole run prepare what all readers share; returns the cache of what they read."""
        machine, told = self.joined.machine, b""
        member = machine.member
        try:
            cache = reader_cache(member.settings, member.task.reader)
        except NoKey as error:
            cache = None
            if member.leads:
                logger.warning("--cache is not used: %s", error)
        if member.leads:
            data = member.settings.data
            files = tuple(member.task.reader.files(day_folder(data, self.joined.layout.days[0]), TRAIN))
            kept = None if cache is None else cache.prepared(files)
            told = machine.pool.ask(jobs.Prepare(data, files, kept)).encode()
        posted = member.client.exchange("reader", told)
        shared = json.loads(posted[member.role.simulator_ranks[0]])
        machine.pool.ask_all(jobs.Setup(shared))
        return None if cache is None else cache.with_shared(shared)

    def player(self, cache: ReaderCache | None) -> DayPlayer:
        """Who plays the days."""
        joined, machine = self.joined, self.joined.machine
        member = machine.member
        return DayPlayer(
            member.client,
            machine.pool,
            self.transport,
            member.rules,
            member.settings,
            files=member.task.reader.files,
            rank=member.role.rank,
            lanes={info.rank: info.shards for info in joined.layout.simulators},
            store=machine.store,
            days=machine.seat.days,
            cache=cache,
            params=self.params.arrays,
            saver=self.saver,
            step=joined.first_step,
            together=self.together,
        )


def join(machine: Machine) -> Joined:
    """Meets the other simulators, and chooses with them what to go on from."""
    member = machine.member
    client, endings = member.client, member.endings
    client.watch(endings.run_ended, endings.run_stops)
    layout = client.register(machine.info)
    check_days(layout.days)
    machine.pool.ask_all(jobs.Connect(addresses_of(layout), member.role.keys))
    resumed = agree_on_checkpoint(client, member.output / FOLDER) if member.resumed else None
    return Joined(machine, layout, resumed)


def addresses_of(layout: Layout) -> dict[int, str]:
    """Of all data servers, by rank."""
    return {info.rank: info.data_address for info in layout.simulators}


def make_model(joined: Joined, to_close: Closing) -> Modelled:
    """Builds the model in every shard; the first simulator's becomes the run's.

    Args:
        joined: the stage before.
        to_close: gets all that is opened.
    """
    machine = joined.machine
    member, pool = machine.member, machine.pool
    schema: jobs.ModelSchema = pool.ask_all(jobs.BuildModel())[0]
    init = member.settings.init
    # The values of --init lie over those that the first shard makes.
    params = pool.attach(schema.arrays, write_initial=member.leads)
    private: Tensors = {}
    frozen: Tensors = pool.ask(jobs.ReadFrozen()) if member.leads and schema.frozen else {}
    if member.leads and init is not None:
        private, given = take_initial(init, schema, params.arrays)
        frozen.update(given)
    _share_model(joined, schema, params.arrays, private, frozen)
    in_memory = member.settings.shared_memory and use_memory(member.client, pool, schema.arrays)
    transport = _choose_transport(joined, schema, params, in_memory=in_memory)
    to_close.add(transport.close)
    member.endings.interrupts(transport.fail)
    return Modelled(joined, params, transport, _keep_private(joined) if schema.kept else None, schema.together)


def _share_model(
    joined: Joined, schema: jobs.ModelSchema, params: Tensors, private: Tensors, frozen: Tensors
) -> None:  # fmt: skip
    """Sees to it that all have the same model, and that it begins with the same parameters."""
    machine = joined.machine
    member = machine.member
    client, keys = member.client, member.role.keys
    machine.schema.set(schema.kept)
    rank, first = member.role.rank, member.role.simulator_ranks[0]
    names, digest = agree_on_model(client, schema, list(private), digest_of(frozen), rank, first)
    if member.leads:
        client.update_global_params(params, list(schema.kept), schema.layers, frozen)
    given = member.settings.init is not None
    frozen = frozen if member.leads and given else get_frozen(client, schema, digest, given=given, rank=rank)
    if names:
        with closing(DataClient(joined.addresses, keys, machine.store)) as data:
            private = spread_private_start(client, data, names, private, machine.schema)
    machine.pool.ask_all(jobs.StartPrivate(private, frozen, digest))


def _choose_transport(
    joined: Joined, schema: jobs.ModelSchema, params: SharedArrays, *, in_memory: bool
) -> Transport:  # fmt: skip
    """Agrees with all simulators on who exchanges parameters and sums with whom."""
    machine = joined.machine
    member, pool = machine.member, machine.pool
    client, role = member.client, member.role
    group = client.choose_exchange(streams=not in_memory)
    if member.leads and member.settings.exchange == "always" and not group:
        logger.info("--exchange always has nothing to do: no simulator exchanges with others in this run")
    if in_memory:
        return InMemory(client, pool)
    if role.rank not in group:
        return Streamed(client, pool, params.arrays)
    parts = Partition(schema.arrays, group)
    peer_sums = PeerSums(role.rank, parts, params.arrays, joined.first_step)
    # The others come only after the next exchange, which all wait for.
    machine.peers.meet(peer_sums)
    return Exchanged(client, pool, params.arrays, PeerGroup(role.keys, joined.addresses, parts, peer_sums))


def _keep_private(joined: Joined) -> PrivateSaver:
    """Takes back what a checkpoint knows of private parameters, and gets ready for the next one."""
    machine = joined.machine
    member = machine.member
    folder, rank, client = member.output / FOLDER, member.role.rank, member.client
    if joined.resumed is not None:
        with closing(DataClient(joined.addresses, member.role.keys, machine.store)) as data:
            joined.resumed.restore_private(folder, rank, data)
        # Nobody trains before all private parameters are back at their owners.
        client.exchange("restored", b"")

    def failed(error: FLError) -> None:
        """Ends the run for all: a checkpoint that cannot be written would only be missed after a crash."""
        member.endings.failed_here(error)
        member.report_failure(f"rank {rank}: {error}")

    return PrivateSaver(machine.store, folder, rank, client.report_segments, failed)
