"""Live servers and raw calls, for messages that no client of ours would send."""

from pathlib import Path

import grpc
from doors import GATE, Socket, claimed, keys, seat

from protos.codec import specs
from protos.stubs import data_server_pb2, peer_server_pb2, scheduler_server_pb2
from simulator.exchange.peer_server import PeerServicer
from simulator.users.data_server import PrivateSchema, start_data_server
from simulator.users.store import UserStore

WAIT = 20.0
SCHEDULER = scheduler_server_pb2.DESCRIPTOR.services_by_name["SchedulerServer"]
DATA = data_server_pb2.DESCRIPTOR.services_by_name["DataServer"]
PEER = peer_server_pb2.DESCRIPTOR.services_by_name["PeerServer"]


class LiveData:
    """The data server of a simulator that owns the uids that begin with "mine"."""

    def __init__(self, folder, private, peer_sums=None):
        folder.mkdir()
        self.store, self.crashes = UserStore(Path(folder)), []
        schema = PrivateSchema()
        schema.set(specs(private))
        peers = PeerServicer(0)
        if peer_sums is not None:
            peers.meet(peer_sums)
        self._socket = Socket()
        self.server, self.address = start_data_server(
            self.store, schema, lambda uid: uid.startswith("mine"), self._socket.address, self.crashes.append, GATE,
            seat(1), also=peers.register,
        )  # fmt: skip

    def contents(self):
        """All that is stored."""
        with self.store._env.begin() as txn:
            return {bytes(key): bytes(value) for key, value in txn.cursor()}

    def close(self):
        assert self.server.stop(0).wait(WAIT)
        self.store.close()
        self._socket.close()
        assert self.crashes == []


def raw_channel(address):
    """A channel that sends whatever it is given."""
    return grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)])


def as_bytes(message):
    return message if isinstance(message, bytes) else message.SerializeToString()


def send(channel, service, method, messages, timeout=WAIT):
    """The answers' bytes to a call of the rank that the messages claim; on the wire every call is a stream."""
    path = f"/{service.full_name}/{method}"
    call = channel.stream_stream(path, request_serializer=as_bytes, response_deserializer=bytes)
    return list(call(iter(messages), timeout=timeout, metadata=keys(claimed(messages)).shown_to(0)))


def refusal(channel, service, method, messages, timeout=WAIT):
    """(status, message) of a call that must fail."""
    try:
        answers = send(channel, service, method, messages, timeout)
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError(f"{method} was answered: {answers}")
