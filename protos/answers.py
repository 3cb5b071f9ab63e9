"""What a server's methods raise becomes a status code, in one place for all of them; and waiting within a call."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import grpc

from protos.errors import FLError, PeerLost, clipped
from protos.gate import MAKERS, behaviour
from protos.patience import StreamBroken

logger = logging.getLogger(__name__)

# How often a call that waits looks whether its caller still does.
LOOK_SECONDS = 1.0
# A call ends this soon after its stream, if that is why the stream ended.
END_SECONDS = 0.02

# Told of an exception that is not an FLError.
OnCrash = Callable[[BaseException], None]

# The call that the current thread of a server answers.
_CALL: ContextVar[grpc.ServicerContext | None] = ContextVar("call", default=None)


class Answers(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Lets every method of a server simply raise.

    Args:
        on_crash: told of what is no error that a method means to raise.
    """

    def __init__(self, on_crash: OnCrash) -> None:
        self._on_crash = on_crash

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:  # noqa: D102
        handler = continuation(details)
        if handler is None:
            return None
        behave = behaviour(handler)
        run = self._streaming(behave) if handler.response_streaming else self._answering(behave)
        make = MAKERS[handler.request_streaming, handler.response_streaming]
        return make(run, handler.request_deserializer, handler.response_serializer)

    def _answering(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def run(request: Any, context: grpc.ServicerContext) -> Any:
            call = _CALL.set(context)
            try:
                return method(request, context)
            except Exception as error:  # noqa: BLE001 - every failure must reach the caller as a status
                return self._abort(context, error)
            finally:
                _CALL.reset(call)

        return run

    def _streaming(self, method: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def run(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            call = _CALL.set(context)
            try:
                yield from method(request, context)
            except Exception as error:  # noqa: BLE001 - every failure must reach the caller as a status
                self._abort(context, error)
            finally:
                # gRPC may close a broken call's generator in another thread, which has a context of its own.
                with contextlib.suppress(ValueError):
                    _CALL.reset(call)

        return run

    def _abort(self, context: grpc.ServicerContext, error: Exception) -> Any:
        if isinstance(error, FLError):
            context.abort(error.status, clipped(str(error)))
        if isinstance(error, grpc.RpcError) or not context.is_active():
            # The caller went away in the middle of its stream: there is nobody to answer.
            logger.debug("caller gone: %r", error)
            context.abort(grpc.StatusCode.CANCELLED, "the caller went away")
        self._on_crash(error)
        context.abort(grpc.StatusCode.INTERNAL, clipped(f"{type(error).__name__}: {error}"))


def log_crash(error: BaseException) -> None:
    """For a server that nobody else is told of."""
    logger.error("a method of a server failed", exc_info=error)


def caller_is_there() -> bool:
    """Whether somebody still waits for the answer that this thread makes; True where it answers no call."""
    context = _CALL.get()
    return context is None or bool(context.is_active())


def wait_in_call(
    changed: threading.Condition, ready: Callable[[], bool], failure: Callable[[], FLError | None]
) -> None:
    """Waits on a condition, whose lock is held, as long as somebody still waits for the answer.

    Args:
        changed: notified when there may be news.
        ready: what is waited for.
        failure: what ends the wait instead, if anything does.

    Raises:
        FLError: the failure.
        PeerLost: the caller is gone.
    """
    while True:
        error = failure()
        if error is not None:
            raise error
        if ready():
            return
        if not caller_is_there():
            raise PeerLost("the caller went away while it waited")
        changed.wait(LOOK_SECONDS)


def confirm_end(context: grpc.ServicerContext) -> None:
    """Raises if a stream ended because its call did: before what it brought is taken for whole.

    For streams whose messages do not tell which is the last.  gRPC reports a caller's
    death, or a message beyond the bound, as the end of the stream and a moment later
    as the end of the call.
    """
    gone = threading.Event()
    if not context.add_callback(gone.set) or gone.wait(END_SECONDS):
        raise StreamBroken("the call ended before its stream")
