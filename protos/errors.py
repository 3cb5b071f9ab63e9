"""Errors that cross the wire: each is one gRPC status code with a message."""

from __future__ import annotations

from typing import ClassVar

import grpc


class FLError(Exception):
    """A failure that is said in one line: what is wrong, where, and what to do.

    Raised on the side that finds it, sent as its gRPC status, and raised again
    as the same class on the side that called.
    """

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN


class BadInput(FLError):
    """Data, a setting or a message that cannot be right whatever the state."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class WrongState(FLError):
    """A call that does not fit the state: another round, a user that is not in the cohort."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class NotFound(FLError):
    """A uid, date or round that is not there."""

    status = grpc.StatusCode.NOT_FOUND


class AlreadyDone(FLError):
    """A second push, a second registration."""

    status = grpc.StatusCode.ALREADY_EXISTS


class NotAdmitted(FLError):
    """A call without a ticket of the run."""

    status = grpc.StatusCode.UNAUTHENTICATED


class Forbidden(FLError):
    """A private parameter sent to the scheduler, or a rank that does what is another's."""

    status = grpc.StatusCode.PERMISSION_DENIED


class TooLarge(FLError):
    """A name, tensor or message beyond its bound."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class RunEnded(FLError):
    """The run has failed elsewhere; the message is the first failure's."""

    status = grpc.StatusCode.ABORTED


class RunStopped(FLError):
    """The run ends before its last round, as it was asked to: leave as the scheduler says."""

    status = grpc.StatusCode.OUT_OF_RANGE


class PeerLost(FLError):
    """The other side is gone or does not answer."""

    status = grpc.StatusCode.UNAVAILABLE


class InternalError(FLError):
    """An exception nobody foresaw on the other side."""

    status = grpc.StatusCode.INTERNAL


# gRPC carries a message in the call's trailer, which holds 8 KiB with each byte that is no plain letter taking three.
MAX_MESSAGE = 6_000


def clipped(message: str) -> str:
    """A message that fits the trailer of a call: of a long one the beginning and the end."""
    if _carried(message) <= MAX_MESSAGE:
        return message
    head, tail = _begin(message, MAX_MESSAGE // 2), _begin(message[::-1], MAX_MESSAGE // 3)[::-1]
    return f"{head} ... {tail}"


def _carried(text: str) -> int:
    return sum(1 if " " <= c <= "~" and c != "%" else 3 * len(c.encode("utf-8", "replace")) for c in text)


def _begin(text: str, size: int) -> str:
    """As much of a text as takes `size` bytes."""
    for i, c in enumerate(text):
        size -= _carried(c)
        if size < 0:
            return text[:i]
    return text


_KINDS = (
    BadInput, WrongState, NotFound, AlreadyDone, NotAdmitted, Forbidden, TooLarge, RunEnded, RunStopped, PeerLost,
    InternalError,
)  # fmt: skip
_BY_STATUS = {kind.status: kind for kind in _KINDS}


def from_rpc(error: grpc.RpcError, peer: str) -> FLError:
    """The error of this module that a failed call stands for.

    Args:
        error: what the stub raised.
        peer: who was called, for the message of a lost connection.
    """
    code = error.code()
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return PeerLost(f"{peer} does not answer ({code.name}: {error.details()})")
    kind = _BY_STATUS.get(code)
    if kind is None:
        return FLError(f"{peer}: {code.name}: {error.details()}")
    return kind(error.details())
