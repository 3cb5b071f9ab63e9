"""No peer holds a server's threads: calls whose other side does not send, or does not read, are ended.

A call holds a thread of the server's pool from its first byte on.  A peer that opens
calls and goes quiet, or sends a byte now and then, would hold all of them for ever.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from protos.errors import BadInput, FLError
from protos.gate import behaviour, check_claims

logger = logging.getLogger(__name__)

# How long a call may wait for its peer in all, and the bytes a second that earn it more time.
IDLE_SECONDS, BYTES_A_SECOND = 60.0, 16_384
# How long a peer may take to read an answer: a simulator asks for its next users while it trains.
UNREAD_SECONDS = 3_600.0
# The same when more than half of the server's threads wait for peers: others must get their turn.
CROWDED_IDLE_SECONDS, CROWDED_UNREAD_SECONDS = 2.0, 10.0
CHECK_SECONDS = 0.5

Clock = Callable[[], float]


class StreamBroken(grpc.RpcError):
    """The caller's stream ended because the call did: what came of it is not whole."""


class _Wait:
    """A thread that waits for a peer."""

    __slots__ = ("allowed", "context", "crowded", "since", "what")

    def __init__(self, context: grpc.ServicerContext, what: str, since: float, allowed: float, crowded: float) -> None:
        self.context, self.what = context, what
        self.since, self.allowed, self.crowded = since, allowed, crowded


class Patience(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Notes which calls wait for their peers and ends those that wait too long.

    Every method is served as one that takes a stream, so that also the one message of
    a plain call is waited for here and not within gRPC, where nothing ends the wait.

    Args:
        threads: of the server's pool.
        clock: seconds; replaced in tests.
    """

    def __init__(self, threads: int, clock: Clock = time.monotonic) -> None:
        self._threads, self._clock = threads, clock
        self._waits: set[_Wait] = set()

    def attend(self, server: grpc.Server, stopped: Callable[[], None]) -> None:
        """Looks after a server until it stops, in a thread of its own.

        Args:
            server: the server.
            stopped: called when it has.
        """

        def watch() -> None:
            while server.wait_for_termination(CHECK_SECONDS):
                self.look()
            stopped()

        threading.Thread(target=watch, name="patience", daemon=True).start()

    def look(self) -> None:
        """Ends the calls that have waited too long."""
        now, waits = self._clock(), list(self._waits)
        crowded = 2 * len(waits) > self._threads
        for wait in waits:
            if now - wait.since > (min(wait.allowed, wait.crowded) if crowded else wait.allowed):
                logger.warning("%s of %s was ended: the peer is too slow", wait.what, wait.context.peer())
                self._waits.discard(wait)
                wait.context.cancel()  # type: ignore[no-untyped-call]

    # -- ServerInterceptor -----------------------------------------------------------

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:  # noqa: D102
        handler = continuation(details)
        if handler is None:
            return None
        method = details.method.rpartition("/")[2]
        behave = behaviour(handler)
        decode = _decoder(handler.request_deserializer or bytes, method)
        take = self._messages if handler.request_streaming else self._message

        if handler.response_streaming:

            def stream(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
                yield from self._sending(behave(take(method, requests, context), context), method, context)

            return grpc.stream_stream_rpc_method_handler(stream, decode, handler.response_serializer)

        def unary(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
            return behave(take(method, requests, context), context)

        return grpc.stream_unary_rpc_method_handler(unary, decode, handler.response_serializer)

    # -- inside ----------------------------------------------------------------------

    def _messages(self, method: str, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """The messages of a stream.

        Raises:
            BadInput: one cannot be decoded.
            Forbidden: one is of another rank than the call.
            StreamBroken: the call ended before the stream did.
        """
        waited, size = 0.0, 0
        while True:
            allowed = IDLE_SECONDS + size / BYTES_A_SECOND - waited
            wait = _Wait(context, method, self._clock(), allowed, CROWDED_IDLE_SECONDS)
            self._waits.add(wait)
            try:
                got = next(requests, None)
            finally:
                self._waits.discard(wait)
            waited += self._clock() - wait.since
            if got is None:
                # gRPC ends the stream in the same way when a message goes beyond its bound.
                if not context.is_active():
                    raise StreamBroken(f"{method}: the call ended before its stream")
                return
            message, length = got
            if isinstance(message, Exception):
                raise BadInput(f"{method}: a message cannot be decoded ({message})") from message
            size += length
            check_claims(message)
            yield message

    def _message(self, method: str, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        """The only message of a call; ends the call if there is none."""
        try:
            message = next(self._messages(method, requests, context), None)
        except FLError as error:
            context.abort(error.status, str(error))
        if message is None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{method}: the call has no message")
        return message

    def _sending(self, answers: Iterator[Any], method: str, context: grpc.ServicerContext) -> Iterator[Any]:
        for answer in answers:
            wait = _Wait(context, method, self._clock(), UNREAD_SECONDS, CROWDED_UNREAD_SECONDS)
            self._waits.add(wait)
            try:
                yield answer
            finally:
                self._waits.discard(wait)


def _decoder(decode: Callable[[bytes], Any], method: str) -> Callable[[bytes], tuple[Any, int]]:
    """Decodes a message with its size; gRPC takes one that cannot be decoded for the end of the stream."""

    def read(data: bytes) -> tuple[Any, int]:
        try:
            return decode(data), len(data)
        except Exception as error:  # noqa: BLE001 - bytes of a peer, whatever the decoder makes of them
            return error, len(data)

    return read
