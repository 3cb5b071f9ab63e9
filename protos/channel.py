"""The only place where gRPC servers and channels are made, and where errors become status codes."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import grpc

from protos.certificates import NAME, Credentials
from protos.errors import FLError, PeerLost, clipped, from_rpc
from protos.patience import Patience, StreamBroken

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 64 << 20
# A peer that vanished without closing its connection is noticed after this long.
KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 3_000, 4_000
_COMMON = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
    # Ranks talk to each other directly, whatever proxy the machine uses for the web.
    ("grpc.enable_http_proxy", 0),
]
_SERVER = [
    *_COMMON,
    # Without this a second server binds the same port and takes half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
]

# How often a call that waits looks whether its caller still does.
LOOK_SECONDS = 1.0

# A call ends this soon after its stream, if that is why the stream ended.
END_SECONDS = 0.02

Result = TypeVar("Result")

# The call that the current thread of a server answers.
_CALL: ContextVar[grpc.ServicerContext | None] = ContextVar("call", default=None)


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


def make_server(
    register: Callable[[grpc.Server], None], host: str, threads: int, credentials: Credentials | None = None
) -> tuple[grpc.Server, str]:
    """Starts a server on a free port.

    Args:
        register: adds the servicers.
        host: address to listen on, such as 127.0.0.1.
        threads: calls that may be under way at once; a call that waits holds one.
        credentials: of this rank: peers without a certificate of the same run are refused
            before any method is reached.  None for loopback only, where nobody else can reach.

    Returns:
        The started server and the address that was bound, "host:port".

    Raises:
        FLError: the address cannot be bound.
    """
    _check_plain(host, credentials)
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="grpc")
    patience = Patience(threads)
    server = grpc.server(pool, options=_SERVER, interceptors=[patience])
    register(server)
    try:
        if credentials is None:
            port = server.add_insecure_port(join_address(host, 0))
        else:
            pair = (credentials.key, credentials.certificate)
            secured = grpc.ssl_server_credentials([pair], credentials.ca, require_client_auth=True)
            port = server.add_secure_port(join_address(host, 0), secured)
    except RuntimeError as error:
        raise FLError(f"cannot listen on {host}: {error}") from error
    server.start()
    patience.attend(server)
    return server, join_address(host, port)


def make_channel(address: str, credentials: Credentials | None = None) -> grpc.Channel:
    """A channel to `address` ("host:port"); without credentials on loopback only."""
    if credentials is None:
        _check_plain(address.rpartition(":")[0].strip("[]"), credentials)
        return grpc.insecure_channel(address, options=_COMMON)
    secured = grpc.ssl_channel_credentials(credentials.ca, credentials.key, credentials.certificate)
    # The run's authority vouches for the peer, whatever its address.
    return grpc.secure_channel(address, secured, options=[*_COMMON, ("grpc.ssl_target_name_override", NAME)])


def join_address(host: str, port: int) -> str:
    """Host and port as one address; IPv6 goes in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_plain(host: str, credentials: Credentials | None) -> None:
    if credentials is None and not ipaddress.ip_address(host).is_loopback:
        raise FLError(f"{host} is not loopback: others could reach it, so it needs credentials")


def answering(on_crash: Callable[[BaseException], None]) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Decorates a unary-answer method body: errors become status codes.

    Args:
        on_crash: told of an exception that is not an FLError.
    """

    def decorate(method: Callable[..., Result]) -> Callable[..., Result]:
        @functools.wraps(method)
        def run(request: Any, context: grpc.ServicerContext) -> Result:
            call = _CALL.set(context)
            try:
                return method(request, context)
            except Exception as error:  # noqa: BLE001 - every failure must reach the caller as a status
                return cast(Result, _abort(context, error, on_crash))
            finally:
                _CALL.reset(call)

        return run

    return decorate


def streaming(
    on_crash: Callable[[BaseException], None],
) -> Callable[[Callable[..., Iterator[Result]]], Callable[..., Iterator[Result]]]:
    """As `answering`, for a method that yields its answer."""

    def decorate(method: Callable[..., Iterator[Result]]) -> Callable[..., Iterator[Result]]:
        @functools.wraps(method)
        def run(request: Any, context: grpc.ServicerContext) -> Iterator[Result]:
            call = _CALL.set(context)
            try:
                yield from method(request, context)
            except Exception as error:  # noqa: BLE001 - every failure must reach the caller as a status
                _abort(context, error, on_crash)
            finally:
                # gRPC may close a broken call's generator in another thread, which has a context of its own.
                with contextlib.suppress(ValueError):
                    _CALL.reset(call)

        return run

    return decorate


def _abort(context: grpc.ServicerContext, error: Exception, on_crash: Callable[[BaseException], None]) -> Any:
    if isinstance(error, FLError):
        context.abort(error.status, clipped(str(error)))
    if isinstance(error, grpc.RpcError) or not context.is_active():
        # The caller went away in the middle of its stream: there is nobody to answer.
        logger.debug("caller gone: %r", error)
        context.abort(grpc.StatusCode.CANCELLED, "the caller went away")
    on_crash(error)
    context.abort(grpc.StatusCode.INTERNAL, clipped(f"{type(error).__name__}: {error}"))


class Caller:
    """Calls a peer's methods and raises its errors as `FLError`s.

    Args:
        address: "host:port" of the peer.
        peer: what to call it in messages, such as "the scheduler".
        credentials: of this rank, None on loopback.
    """

    def __init__(self, address: str, peer: str, credentials: Credentials | None = None) -> None:
        self.channel = make_channel(address, credentials)
        self.peer = f"{peer} at {address}"

    def call(self, method: Callable[..., Result], request: Any, timeout: float | None = None) -> Result:
        """A call with one answer."""
        try:
            return method(request, timeout=timeout, wait_for_ready=False)
        except grpc.RpcError as error:
            raise from_rpc(error, self.peer) from error

    def stream(self, method: Callable[..., Iterator[Result]], request: Any) -> Iterator[Result]:
        """A call with a stream of answers."""
        yield from self.begin(method, request)

    def begin(self, method: Callable[..., Iterator[Result]], request: Any) -> Iterator[Result]:
        """As `stream`, but the call is on its way before the first answer is asked for."""
        replies = method(request, wait_for_ready=False)

        def follow() -> Iterator[Result]:
            try:
                yield from replies
            except grpc.RpcError as error:
                raise from_rpc(error, self.peer) from error

        return follow()

    def close(self) -> None:
        """Closes the channel."""
        self.channel.close()
