"""The gRPC face of a simulator towards the others of its group, on its data server's port."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import grpc

from protos.codec import TensorAssembler, tensor_chunks
from protos.errors import BadInput, WrongState
from protos.stubs import peer_server_pb2 as pb
from protos.stubs import peer_server_pb2_grpc as pb_grpc
from protos.stubs import scheduler_server_pb2 as scheduler_pb
from protos.stubs import tensor_pb2
from scheduler.rules.samplers import Round
from scheduler.state.bounds import check_date
from simulator.exchange.peer_sums import PeerSums


class PeerServicer(pb_grpc.PeerServerServicer):  # type: ignore[misc]
    """See protos/peer_server.proto.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._met: PeerSums | None = None

    def register(self, server: grpc.Server) -> None:
        """Adds it to a server."""
        pb_grpc.add_PeerServerServicer_to_server(self, server)

    def meet(self, peer_sums: PeerSums) -> None:
        """Opens the doors, once the group is known."""
        self._met = peer_sums

    def AddSums(self, request: Iterable[pb.PartSums], context: Any) -> scheduler_pb.Empty:  # noqa: N802, D102
        messages = iter(request)
        first = next(messages, None)
        if first is None or not first.HasField("key"):
            raise BadInput("the first message of the sums names no round")
        key = first.key
        at = Round(self._seed, check_date(key.date), key.round, key.step)
        with self._sums.contributing(key.rank, at) as take:
            tensors = TensorAssembler(self._sums.sum_specs)
            tensors.add(first.chunk)
            for message in messages:
                tensors.add(message.chunk)
            take(tensors.finish())
        return scheduler_pb.Empty()

    def GetPart(self, request: pb.PartRequest, context: Any) -> Iterator[tensor_pb2.TensorChunk]:  # noqa: N802, D102
        yield from tensor_chunks(self._sums.params(request.rank, request.step))

    @property
    def _sums(self) -> PeerSums:
        if self._met is None:
            raise WrongState("this simulator exchanges with the scheduler alone")
        return self._met
