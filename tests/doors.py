"""What opens servers to the ranks of a test: sockets, one gate for all servers of the process, and keys to it."""

import tempfile
from pathlib import Path

import grpc

from protos.channel import make_channel
from protos.gate import Gate, Keys, _claims
from simulator.users.seat import Seat

RANKS = range(10)
GATE = Gate(RANKS)


class AnyDay:
    """Takes examples of all days at all times."""

    def check(self, date, split):
        pass


def seat(rank):
    """Of a simulator whose first is rank 1."""
    return Seat(rank, 1, AnyDay())


def keys(rank, credentials=None, gate=GATE):
    """Of a rank, at every server with that gate."""
    return Keys(rank, {server: gate.ticket(rank) for server in RANKS}, credentials)


class Socket:
    """A Unix socket's address, in a folder of its own."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="door-")
        self.address = f"unix:{Path(self._folder.name) / 'socket'}"

    def close(self):
        self._folder.cleanup()


class _Details(grpc.ClientCallDetails):
    def __init__(self, details, metadata):
        self.method, self.timeout, self.credentials = details.method, details.timeout, details.credentials
        self.wait_for_ready, self.compression, self.metadata = details.wait_for_ready, details.compression, metadata


class Showing(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds a ticket to every call of a channel."""

    def __init__(self, metadata):
        self._metadata = metadata

    def _show(self, continuation, details, request):
        return continuation(_Details(details, self._metadata), request)

    intercept_unary_unary = intercept_unary_stream = _show
    intercept_stream_unary = intercept_stream_stream = _show


def as_rank(rank, channel, gate=GATE):
    """The channel, with a rank's ticket on every call."""
    return grpc.intercept_channel(channel, Showing(keys(rank, gate=gate).shown_to(0)))


def channel_of(rank, address):
    """A channel of ours with a rank's ticket on every call."""
    return as_rank(rank, make_channel(address))


def claimed(messages, otherwise=1):
    """The rank that messages say they are of."""
    ranks = (rank for message in messages if not isinstance(message, bytes) for rank in _claims(message))
    return next((rank for rank in ranks if rank in RANKS), otherwise)
