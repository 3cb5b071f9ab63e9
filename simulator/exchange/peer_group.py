"""The simulators of a group towards each other: each one's part of the sums to it, its part of the parameters back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from protos.channel import Caller
from protos.codec import Tensors, assemble, tensor_chunks
from protos.errors import FLError
from protos.gate import Keys
from protos.stubs import peer_server_pb2 as pb
from protos.stubs import peer_server_pb2_grpc as pb_grpc
from scheduler.rules.samplers import Round
from scheduler.service.messages import key_to_message
from scheduler.state.partition import Partition
from scheduler.state.rounds import Share
from simulator.exchange.peer_sums import PeerSums

# Calls to other simulators that are under way at once: one can fill a connection, a few hide its waiting.
_AT_ONCE = 4


class PeerGroup:
    """One simulator's connections to the others of its group.

    Args:
        keys: of this simulator.
        addresses: of the data servers, by rank; those of the group at least.
        parts: of the group.
        peer_sums: where this simulator is met by the others.
    """

    def __init__(self, keys: Keys, addresses: Mapping[int, str], parts: Partition, peer_sums: PeerSums) -> None:
        self._rank, self._parts, self._sums = keys.rank, parts, peer_sums
        me = parts.group.index(keys.rank)
        # Everybody begins with the one after itself, so that not all call the same one first.
        self._others = [other for other in parts.group[me + 1 :] + parts.group[:me] if parts.specs(other)]
        self._callers = {o: Caller(addresses[o], f"the simulator of rank {o}", o, keys) for o in self._others}
        self._stubs = {other: pb_grpc.PeerServerStub(caller.channel) for other, caller in self._callers.items()}
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="peers")
        self._error: FLError | None = None

    def open(self, at: Round, share: Share) -> None:
        """Begins a round; the others may bring their sums from now on."""
        self._sums.open(at, share)

    def add_up(self, at: Round, sums: Tensors) -> tuple[Tensors, float]:
        """Hands this simulator's sums to the others and gathers theirs.

        Args:
            at: the round that is open.
            sums: int64, in the parameters' shapes; empty if this simulator has no users in it.

        Returns:
            The sums of the whole group in this simulator's part, flat (none if nobody has users),
            and the seconds it waited for simulators that were not yet done.

        Raises:
            FLError: another simulator is gone or refuses them, or the run has failed.
        """
        if sums:
            self._with_all(lambda other: self._send(other, at, self._parts.views(sums, other)))
        began = time.perf_counter()
        total = self._sums.take(self._parts.views(sums, self._rank) if sums else None)
        return total, time.perf_counter() - began

    def share_params(self, step: int, params: Tensors, pull: Callable[[Tensors], object]) -> None:
        """Brings the shared parameters before round `step`: this simulator's part itself, the rest from the others.

        Args:
            step: the round.
            params: written to.
            pull: fetches this simulator's part, which it is given as flat arrays.

        Raises:
            FLError: as `add_up`.
        """
        pull(self._parts.views(params, self._rank))
        self._sums.show_params(step)
        self._with_all(lambda other: self._fetch(other, step, self._parts.views(params, other)))

    def fail(self, error: FLError) -> None:
        """Ends all waiting, now and later; called from another thread."""
        self._error = error
        self._sums.fail(error)
        self._close_callers()

    def close(self) -> None:
        """Closes all connections."""
        self._close_callers()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # -- inside ------------------------------------------------------------------

    def _with_all(self, do: Callable[[int], object]) -> None:
        tasks = [self._threads.submit(do, other) for other in self._others]
        for task in tasks:
            try:
                task.result()
            except (FLError, ValueError) as error:
                # A call on a connection that `fail` has closed raises ValueError, or that it was cancelled.
                if self._error is not None:
                    raise self._error from error
                raise

    def _send(self, other: int, at: Round, part: Tensors) -> None:
        def messages() -> Iterator[pb.PartSums]:
            for number, chunk in enumerate(tensor_chunks(part)):
                yield pb.PartSums(key=key_to_message(self._rank, at) if number == 0 else None, chunk=chunk)

        self._callers[other].call(self._stubs[other].AddSums, messages())

    def _fetch(self, other: int, step: int, into: Tensors) -> None:
        request = pb.PartRequest(rank=self._rank, step=step)
        chunks = self._callers[other].stream(self._stubs[other].GetPart, request)
        assemble(chunks, self._parts.specs(other), into)

    def _close_callers(self) -> None:
        for caller in self._callers.values():
            caller.close()
