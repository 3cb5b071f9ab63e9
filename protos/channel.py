"""The only place where gRPC servers and channels are made, and where errors of peers become ours.

Ranks of one host talk over Unix sockets in folders that nobody else can enter; those of
several hosts over TLS with certificates on both sides.  Nothing else is served or called.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc

from protos.answers import Answers, OnCrash, log_crash
from protos.certificates import NAME, Credentials
from protos.errors import FLError, PeerLost, from_rpc
from protos.gate import Admission, Gate, Keys
from protos.patience import Patience
from protos.sockets import UNIX, socket_target

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
    # A connection is kept: strangers may have taken all places when it is to be made again.
    ("grpc.client_idle_timeout_ms", 2**31 - 1),
    # Tried again often: in a flood a place is free for moments only.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
]
_SERVER = [
    *_COMMON,
    # Without this a second server binds the same port and takes half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    # Who has not shown a certificate by then is cut off.
    ("grpc.server_handshake_timeout_ms", 5_000),
]

# Those of strangers take some 20 KB each until they are cut off.
MAX_CONNECTIONS = 1 << 14

# How long a connection to another host is tried again: a flood of strangers may have taken all places.
CONNECT_SECONDS = 30.0

Result = TypeVar("Result")


def make_server(
    register: Callable[[grpc.Server], None],
    where: str,
    threads: int,
    gate: Gate,
    credentials: Credentials | None = None,
    on_crash: OnCrash = log_crash,
) -> tuple[grpc.Server, str]:
    """Starts a server.

    Args:
        register: adds the servicers.
        where: what to listen on: "unix:" and the path of a socket, in a folder that only this
            user can enter, or an address of this host, on which a free port is taken.
        threads: calls that may be under way at once; a call that waits holds one.
        gate: who is let in.
        credentials: of this rank, for an address: peers without a certificate of the same run are
            refused before any method is reached.
        on_crash: told of an exception in a method that is not an FLError.

    Returns:
        The started server and the address that was bound, "unix:path" or "host:port".

    Raises:
        FLError: the address cannot be bound.
    """
    _check_closed(where, credentials)
    pool = _full_pool(threads)
    patience = Patience(threads)
    admission = Admission(gate, certified=credentials is not None)
    options = [*_SERVER, ("grpc.max_allowed_incoming_connections", max_connections())]
    server = grpc.server(pool, options=options, interceptors=[admission, patience, Answers(on_crash)])
    register(server)
    try:
        if credentials is None:
            server.add_insecure_port(socket_target(where))
            address = where
        else:
            pair = (credentials.key, credentials.certificate)
            secured = grpc.ssl_server_credentials([pair], credentials.ca, require_client_auth=True)
            address = join_address(where, server.add_secure_port(join_address(where, 0), secured))
    except (RuntimeError, OSError) as error:
        pool.shutdown(wait=False)
        hint = "; point TMPDIR to a local disk" if credentials is None else ""
        raise FLError(f"cannot listen on {where}: {error}{hint}") from error
    server.start()
    # gRPC leaves the threads of a server that has stopped to whoever made them.
    patience.attend(server, lambda: pool.shutdown(wait=False))
    return server, address


def _full_pool(threads: int) -> ThreadPoolExecutor:
    """A pool whose threads have all been started.

    gRPC gives a call to the pool in a thread of its own, which ends if the pool can start no
    thread then: the server would be deaf from there on, and its callers would wait for ever.

    Raises:
        RuntimeError: the system does not start as many.
    """
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="grpc")
    all_there = threading.Barrier(threads)
    try:
        for _ in range(threads):
            pool.submit(all_there.wait)
    except RuntimeError:
        all_there.abort()
        pool.shutdown(wait=False)
        raise
    return pool


def max_connections() -> int:
    """Connections that a server takes at once: half of the files it may open are for the run's own."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if limit == resource.RLIM_INFINITY else min(limit // 2, MAX_CONNECTIONS)


def make_channel(address: str, credentials: Credentials | None = None) -> grpc.Channel:
    """A channel to `address`: "unix:path", or "host:port" with credentials."""
    _check_closed(address, credentials)
    if credentials is None:
        return grpc.insecure_channel(socket_target(address), options=_COMMON)
    secured = grpc.ssl_channel_credentials(credentials.ca, credentials.key, credentials.certificate)
    # The run's authority vouches for the peer, whatever its address.
    return grpc.secure_channel(address, secured, options=[*_COMMON, ("grpc.ssl_target_name_override", NAME)])


def join_address(host: str, port: int) -> str:
    """Host and port as one address; IPv6 goes in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_closed(where: str, credentials: Credentials | None) -> None:
    """Refuses whatever others could reach."""
    if (credentials is None) != where.startswith(UNIX):
        raise FLError(f"{where}: an address of a host needs credentials, a Unix socket takes none")


class Caller:
    """Calls a peer's methods and raises its errors as `FLError`s.

    Args:
        address: of the peer, as `make_server` has returned it.
        peer: what to call it in messages, such as "the scheduler".
        server: the peer's rank.
        keys: of the rank that calls.

    Raises:
        PeerLost: the peer's socket is gone.
    """

    def __init__(self, address: str, peer: str, server: int, keys: Keys) -> None:
        self.peer = f"{peer} at {address}"
        try:
            self.channel = make_channel(address, keys.credentials)
        except OSError as error:
            raise PeerLost(f"{self.peer} does not answer ({error.strerror})") from error
        self._metadata = keys.shown_to(server)
        # On one host a connection is there at once or not at all.
        self._connecting = grpc.channel_ready_future(self.channel) if keys.credentials is not None else None

    def call(self, method: Callable[..., Result], request: Any, timeout: float | None = None) -> Result:
        """A call with one answer."""
        self.connect()
        try:
            return method(request, timeout=timeout, wait_for_ready=False, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc(error, self.peer) from error

    def stream(self, method: Callable[..., Iterator[Result]], request: Any) -> Iterator[Result]:
        """A call with a stream of answers."""
        yield from self.begin(method, request)

    def begin(self, method: Callable[..., Iterator[Result]], request: Any) -> Iterator[Result]:
        """As `stream`, but the call is on its way before the first answer is asked for."""
        self.connect()
        replies = method(request, wait_for_ready=False, metadata=self._metadata)

        def follow() -> Iterator[Result]:
            try:
                yield from replies
            except grpc.RpcError as error:
                raise from_rpc(error, self.peer) from error

        return follow()

    def connect(self) -> None:
        """Waits for the first connection, for a while; if it does not come, the call says why."""
        if self._connecting is not None:
            # Cancelled by `close` in another thread.
            with contextlib.suppress(grpc.FutureTimeoutError, grpc.FutureCancelledError):
                self._connecting.result(CONNECT_SECONDS)
            self._connecting = None

    def close(self) -> None:
        """Closes the channel."""
        if self._connecting is not None:
            self._connecting.cancel()
        self.channel.close()
