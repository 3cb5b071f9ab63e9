"""Who calls: every call carries a ticket that proves which rank it is of, and no rank speaks for another.

Each server makes a ticket for each rank that may call it: a random secret, handed over
before the run begins.  So a ticket names its rank to the server, and nobody but that
rank and the server knows it.
"""

from __future__ import annotations

import functools
import hmac
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from protos.certificates import Credentials, common_name
from protos.errors import Forbidden, NotAdmitted

TICKET_BYTES = 32
_HEADER = "flsim-ticket"

# The rank whose call the current thread of a server answers.
_CALLER: ContextVar[int | None] = ContextVar("caller", default=None)

# By whether requests and answers are streams.
MAKERS = {
    (True, True): grpc.stream_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (False, False): grpc.unary_unary_rpc_method_handler,
}


def behaviour(handler: Any) -> Any:
    """The method behind a handler, whatever kind it is of."""
    return handler.stream_stream or handler.stream_unary or handler.unary_stream or handler.unary_unary


Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Keys:
    """What opens the servers of a run to one rank.

    Attributes:
        rank: whose they are.
        tickets: one for each server that this rank may call, by the server's rank.
        credentials: of this rank, where the run spans hosts.
    """

    rank: int
    tickets: Mapping[int, bytes] = field(repr=False)
    credentials: Credentials | None = None

    def shown_to(self, server: int) -> Metadata:
        """What a call to a server's rank carries; nothing if it admits nobody of this rank."""
        ticket = self.tickets.get(server)
        return () if ticket is None else ((_HEADER, f"{self.rank} {ticket.hex()}"),)


class Gate:
    """The tickets of one server.

    Args:
        ranks: that may call it.
    """

    def __init__(self, ranks: Iterable[int]) -> None:
        self._tickets = {str(rank): (rank, secrets.token_bytes(TICKET_BYTES)) for rank in ranks}

    def ticket(self, rank: int) -> bytes | None:
        """What a rank has to show, for that rank alone; None if it may not call."""
        return self._tickets.get(str(rank), (rank, None))[1]

    def holder(self, metadata: Iterable[tuple[str, str | bytes]]) -> int | None:
        """The rank whose ticket a call carries; None if it carries none that is right."""
        for key, value in metadata:
            if key == _HEADER and isinstance(value, str):
                name, _, shown = value.partition(" ")
                rank, ticket = self._tickets.get(name, (None, b""))
                if ticket and hmac.compare_digest(shown.encode(), ticket.hex().encode()):
                    return rank
                return None
        return None


class Admission(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Lets calls with a ticket in, and ends all others before their method or their messages are looked at.

    Args:
        gate: of the server.
        certified: whether the connection's certificate must be of the same rank.
    """

    def __init__(self, gate: Gate, *, certified: bool) -> None:
        self._gate, self._certified = gate, certified

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:  # noqa: D102
        rank = self._gate.holder(details.invocation_metadata or ())
        if rank is None:
            # As a stream, so that gRPC does not wait for a message first.
            return grpc.stream_unary_rpc_method_handler(_refuse)
        handler = continuation(details)
        return None if handler is None else self._led_in(rank, handler)

    def _led_in(self, rank: int, handler: Any) -> Any:
        behave = behaviour(handler)

        def run(request: Any, context: grpc.ServicerContext) -> Any:
            if self._certified and not _is_certified(rank, context):
                _refuse(request, context)
            # Set by each call for itself, before anything asks.
            _CALLER.set(rank)
            return behave(request, context)

        make = MAKERS[handler.request_streaming, handler.response_streaming]
        return make(run, handler.request_deserializer, handler.response_serializer)


def caller_rank() -> int | None:
    """The rank whose call this thread answers; None where it answers no call."""
    return _CALLER.get()


def check_claims(message: Any) -> None:
    """Holds a message to the rank that sent it.

    Raises:
        Forbidden: it names another rank as its sender, in whatever part of it.
    """
    for rank in _claims(message) if isinstance(message, Message) else ():
        if rank != _CALLER.get():
            raise Forbidden(f"rank {_CALLER.get()} spoke for rank {rank}; a rank speaks for itself only")


def _claims(message: Message) -> Iterator[int]:
    """All ranks that a message says it is of: in every request, a field `rank` is the sender's."""
    for part in _claiming(message.DESCRIPTOR):
        value = getattr(message, part.name)
        if part.message_type is None:
            yield value
        elif not isinstance(value, Message):
            for each in value:
                yield from _claims(each)
        elif message.HasField(part.name):
            yield from _claims(value)


@functools.cache
def _claiming(kind: Descriptor) -> tuple[FieldDescriptor, ...]:
    """The fields of a kind of message that name its sender, or hold something that does."""
    return tuple(
        part for part in kind.fields
        if (_claiming(part.message_type) if part.message_type is not None else part.name == "rank")
    )  # fmt: skip


def _is_certified(rank: int, context: grpc.ServicerContext) -> bool:
    shown: Any = context.auth_context().get("x509_common_name", ())
    return list(shown) == [common_name(rank).encode()]


def _refuse(requests: Any, context: grpc.ServicerContext) -> Any:
    context.abort(NotAdmitted.status, "the call carries no ticket of this run: only its own ranks are served")
