"""How the shared parameters reach a simulator's shards, and the sums of their deltas the scheduler."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace

from protos.codec import Tensors, TensorSpec
from protos.errors import FLError, NotFound
from protos.shared_arrays import SharedArrays
from scheduler.rules.samplers import Round
from scheduler.service.client import SchedulerClient
from scheduler.state.rounds import RoundEnd, Share, Timings
from simulator.exchange.peer_group import PeerGroup
from simulator.shards import jobs
from simulator.shards.jobs import ShareResult
from simulator.shards.pool import ShardPool

logger = logging.getLogger(__name__)


class Transport(ABC):
    """One of the ways below; the bits of a run do not depend on which.

    Attributes:
        shards_see_it: whether shards find out by themselves that the parameters of the next round are there.
    """

    shards_see_it = False

    @abstractmethod
    def pull(self, step: int) -> None:
        """Has the shared parameters before round `step` where the shards read them."""

    def begin(self, at: Round, share: Share) -> None:  # noqa: B027 - most have nothing to do
        """A round's users are known."""

    @abstractmethod
    def push(self, at: Round, share: Share, done: ShareResult, pulled: float) -> RoundEnd:
        """Brings the sums of a share that is trained to the scheduler; returns when the round is over.

        Args:
            at: the round.
            share: of this simulator.
            done: what the shards have answered.
            pulled: seconds that `pull` took.
        """

    def fail(self, error: FLError) -> None:  # noqa: B027
        """The run has failed: ends all waiting but that for the scheduler; called from another thread."""

    def close(self) -> None:  # noqa: B027
        """Closes connections of its own."""


def use_memory(client: SchedulerClient, pool: ShardPool, shared: Mapping[str, TensorSpec]) -> bool:
    """Has the shards read the parameters from the scheduler's memory; returns whether it is on this machine."""
    handle = client.shared_memory()
    try:
        SharedArrays.open(handle, shared)
    except NotFound as error:
        logger.info("parameters are streamed: %s", error)
        return False
    pool.ask_all(jobs.UseMemory(handle))
    return True


class InMemory(Transport):
    """On the scheduler's machine: nothing is copied, shards and scheduler read each other's memory."""

    shards_see_it = True

    def __init__(self, client: SchedulerClient, pool: ShardPool) -> None:
        self._client, self._pool = client, pool

    def pull(self, step: int) -> None:
        """Nothing: the shards read the scheduler's own parameters."""

    def push(self, at: Round, share: Share, done: ShareResult, pulled: float) -> RoundEnd:
        """Tells where the sums are."""
        timings = _Pushing(done.timings, pulled)
        handles = self._pool.sum_handles if share.uids else []
        return self._client.fedavg_update_in_memory(at, done.results, timings(), handles)


class Streamed(Transport):
    """Over the connection to the scheduler."""

    def __init__(self, client: SchedulerClient, pool: ShardPool, params: Tensors) -> None:
        self._client, self._pool, self._params = client, pool, params

    def pull(self, step: int) -> None:
        """All parameters come from the scheduler."""
        self._client.get_global_params(step, into=self._params)

    def push(self, at: Round, share: Share, done: ShareResult, pulled: float) -> RoundEnd:
        """The sums of this simulator go to the scheduler."""
        timings = _Pushing(done.timings, pulled)
        sums = self._pool.reduce_sums() if share.uids else {}
        return self._client.fedavg_update(at, done.results, timings, sums)


class Exchanged(Transport):
    """Over the connections of a group of simulators: each deals with the scheduler for its part only."""

    def __init__(self, client: SchedulerClient, pool: ShardPool, params: Tensors, group: PeerGroup) -> None:
        self._client, self._pool, self._params, self._group = client, pool, params, group

    def pull(self, step: int) -> None:
        """This simulator's part comes from the scheduler, the rest from the others."""
        self._group.share_params(step, self._params, lambda into: self._client.get_part(step, into))

    def begin(self, at: Round, share: Share) -> None:
        """The others may bring their sums."""
        self._group.open(at, share)

    def push(self, at: Round, share: Share, done: ShareResult, pulled: float) -> RoundEnd:
        """The group's sums in this simulator's part go to the scheduler."""
        timings = _Pushing(done.timings, pulled)
        sums = self._pool.reduce_sums() if share.uids else {}
        total, timings.waited = self._group.add_up(at, sums)
        return self._client.fedavg_update(at, done.results, timings, total)

    def fail(self, error: FLError) -> None:
        """Ends the waiting for the other simulators."""
        self._group.fail(error)

    def close(self) -> None:
        """Closes the connections to the other simulators."""
        self._group.close()


class _Pushing:
    """Where a round's time went, as far as it is known when it is asked."""

    def __init__(self, trained: Timings, pulled: float) -> None:
        self._trained, self._pulled, self._began = trained, pulled, time.perf_counter()
        self.waited = 0.0

    def __call__(self) -> Timings:
        spent, t = time.perf_counter() - self._began, self._trained
        push, wait = t.push + spent - self.waited, t.wait + self.waited
        return replace(t, pull=t.pull + self._pulled, push=push, wait=wait, apart=self.waited)
