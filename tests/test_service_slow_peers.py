"""Peers that open calls and go quiet: they hold no thread of a server for long, and nobody waits for them."""

import socket
import struct
import threading
from contextlib import contextmanager, suppress

import grpc
import numpy as np
import pytest
from doors import as_rank, keys
from hostile import DATA, SCHEDULER, WAIT, LiveData, as_bytes, raw_channel
from scheduler_run import Run, soon
from test_state_round_state import PLAN

from protos import patience
from protos.stubs import scheduler_server_pb2 as pb

DATE = "20200101"


@pytest.fixture
def run():
    made = Run(PLAN)
    made.join()
    soon(made.clients[0].update_global_params, {"w": np.zeros(4 << 20, np.float32)}, [])
    yield made
    made.close()


@contextmanager
def quiet(address, service, method, messages=(), calls=1):
    """Calls that send some messages and then nothing, and do not end."""
    forever = threading.Event()

    def sent():
        yield from messages
        forever.wait()

    with as_rank(1, raw_channel(address)) as channel:
        path = f"/{service.full_name}/{method}"
        call = channel.stream_stream(path, request_serializer=as_bytes, response_deserializer=bytes)
        try:
            yield [call(sent()) for _ in range(calls)]
        finally:
            forever.set()


def ended(call):
    """The status of a call that the server ends."""
    with pytest.raises(grpc.RpcError):
        list(call)
    return call.code()


@pytest.mark.parametrize("method", [m.name for m in SCHEDULER.methods])
def test_a_call_without_messages_is_ended(run, monkeypatch, method):
    monkeypatch.setattr(patience, "IDLE_SECONDS", 0.2)
    with quiet(run.address, SCHEDULER, method) as (call,):
        assert soon(ended, call) is grpc.StatusCode.CANCELLED
    assert run.coordinator.failure is None


@pytest.mark.parametrize("method", [m.name for m in DATA.methods])
def test_a_call_of_the_data_server_without_messages_is_ended(tmp_path, monkeypatch, method):
    monkeypatch.setattr(patience, "IDLE_SECONDS", 0.2)
    data = LiveData(tmp_path / "store", {"bias": np.zeros(2, np.float32)})
    with quiet(data.address, DATA, method) as (call,):
        assert soon(ended, call) is grpc.StatusCode.CANCELLED
    data.close()


def test_a_stream_that_stops_half_way_is_ended_and_changes_nothing(run, monkeypatch):
    monkeypatch.setattr(patience, "IDLE_SECONDS", 0.2)
    told = pb.UserInstNum(rank=1, date=DATE, split="train", uids=["a"], counts=[1])
    with quiet(run.address, SCHEDULER, "UpdateUserInstNum", [told]) as (call,):
        assert soon(ended, call) is grpc.StatusCode.CANCELLED
    assert not run.coordinator._live.state.users.begun


def test_more_quiet_calls_than_threads_block_nobody(run, monkeypatch):
    """With the patience of one call they would hold every thread for a minute."""
    monkeypatch.setattr(patience, "CROWDED_IDLE_SECONDS", 0.2)
    with quiet(run.address, SCHEDULER, "FedAvgUpdate", calls=100) as calls:
        soon(run.clients[0].get_checkpoints)
        assert {soon(ended, call) for call in calls} == {grpc.StatusCode.CANCELLED}


def test_an_answer_that_nobody_reads_is_ended_when_others_need_the_threads(run, monkeypatch):
    monkeypatch.setattr(patience, "CROWDED_UNREAD_SECONDS", 0.2)
    with as_rank(1, raw_channel(run.address)) as channel:
        path = f"/{SCHEDULER.full_name}/GetGlobalParams"
        call = channel.unary_stream(path, request_serializer=as_bytes, response_deserializer=bytes)
        calls = [call(pb.GetGlobalParamsRequest(rank=1, step=0)) for _ in range(30)]
        soon(run.clients[0].get_checkpoints)
        for each in calls:
            each.cancel()


def test_a_slow_stream_that_sends_enough_is_not_ended():
    """Ten messages of 16 KiB, 40 seconds apart: each earns a second more, and 60 are given; the second wait ends it."""
    now = [0.0]
    cancelled = []

    class Context:
        def is_active(self):
            return True

        def peer(self):
            return "peer"

        def cancel(self):
            cancelled.append(now[0])

    watch = patience.Patience(threads=10, clock=lambda: now[0])

    def requests(seconds, size, count):
        for _ in range(count):
            now[0] += seconds
            watch.look()
            yield pb.Empty(), size

    fast = watch._messages("Push", requests(40.0, 1 << 20, 10), Context())
    assert list(fast) == [pb.Empty()] * 10
    assert cancelled == []
    list(watch._messages("Push", requests(40.0, 16 << 10, 3), Context()))
    assert len(cancelled) == 2


def frame(kind, flags, stream, body):
    """An HTTP/2 frame."""
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def header(name, value):
    """A header in HPACK, neither indexed nor compressed."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def test_a_peer_that_sends_one_byte_at_a_time_blocks_nobody_and_is_ended(run, monkeypatch):
    monkeypatch.setattr(patience, "IDLE_SECONDS", 0.5)
    path = f"/{SCHEDULER.full_name}/FedAvgUpdate"
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers",
              "content-type": "application/grpc"}  # fmt: skip
    message = b"\x00" + struct.pack(">I", 1000) + bytes(1000)
    fields |= dict(keys(1).shown_to(0))
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(WAIT)
        peer.connect(run.address.removeprefix("unix:"))
        peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
        peer.sendall(frame(1, 4, 1, b"".join(header(k, v) for k, v in fields.items())))
        peer.settimeout(0.05)
        received, sent = b"", 0
        # RST_STREAM of stream 1, or trailers: the server has ended the call.
        while b"\x03\x00\x00\x00\x00\x01" not in received and sent < 400:
            peer.sendall(frame(0, 0, 1, message[sent : sent + 1]))
            sent += 1
            with suppress(TimeoutError):  # nothing yet: the next byte
                received += peer.recv(4096)
    assert sent < 400
    soon(run.clients[0].get_checkpoints)
