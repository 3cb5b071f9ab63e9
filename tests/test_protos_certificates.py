"""Who may talk: a peer without a certificate of this very run reaches no method of any server."""

import datetime
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from doors import GATE, as_rank, keys, seat
from scheduler_run import WAIT, Heard, background

from protos.certificates import NAME, Credentials, certify, make_key
from protos.channel import Caller, join_address, make_channel, make_server
from protos.errors import FLError, NotFound, PeerLost
from protos.gate import Gate
from protos.stubs import scheduler_server_pb2 as pb
from protos.stubs import scheduler_server_pb2_grpc as pb_grpc
from scheduler.rules.samplers import AllTestSampler, FixedSampler
from scheduler.rules.server_optimizers import FedAvg
from scheduler.service.client import SchedulerClient
from scheduler.service.coordinator import Coordinator
from scheduler.service.server import start_scheduler_server
from scheduler.state.plan import DayPlan, Plan
from scheduler.state.rounds import Rules
from simulator.launch.addresses import Address
from simulator.launch.role_maker import FLSimRoleMaker
from simulator.users.data_client import DataClient
from simulator.users.data_server import PrivateSchema, start_data_server
from simulator.users.store import UserStore


def make_run(ranks=3):
    """The credentials of all ranks of a run."""
    keys = [make_key() for _ in range(ranks)]
    ca, certificates = certify([public for _, public in keys])
    return [Credentials(ca, certificate, private) for certificate, (private, _) in zip(certificates, keys, strict=True)]


@pytest.fixture(scope="module")
def ranks():
    return make_run()


@pytest.fixture(scope="module")
def strangers():
    return make_run()


class Door(grpc.GenericRpcHandler):
    """Answers every method there could be, and remembers that it was asked."""

    def __init__(self):
        self.asked = []

    def service(self, details):
        self.asked.append(details.method)
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)


@pytest.fixture
def door(ranks):
    door = Door()
    server, door.address = make_server(
        lambda server: server.add_generic_rpc_handlers((door,)), "127.0.0.1", 2, GATE, ranks[0]
    )
    yield door
    assert server.stop(0).wait(WAIT)


def call(channel, rank=1, gate=GATE):
    with channel:
        return as_rank(rank, channel, gate).unary_unary("/any.Service/AnyMethod")(b"hello", timeout=WAIT)


def tls(address, **parts):
    return grpc.secure_channel(
        address, grpc.ssl_channel_credentials(**parts), options=[("grpc.ssl_target_name_override", NAME)]
    )


OUTSIDERS = {
    "in the clear": lambda address, run, other: grpc.insecure_channel(address),
    "without a certificate": lambda address, run, other: tls(address, root_certificates=run.ca),
    "with a certificate of another run": lambda address, run, other: tls(
        address, root_certificates=run.ca, private_key=other.key, certificate_chain=other.certificate
    ),
    "with the other run's whole chain": lambda address, run, other: tls(
        address, root_certificates=run.ca, private_key=other.key, certificate_chain=other.certificate + other.ca
    ),
    "as a rank of another run": lambda address, run, other: make_channel(address, other),
}


@pytest.mark.parametrize("how", OUTSIDERS)
def test_an_outsider_reaches_no_method(door, ranks, strangers, how):
    with pytest.raises(grpc.RpcError) as refused:
        call(OUTSIDERS[how](door.address, ranks[1], strangers[1]))
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert door.asked == []


def test_every_rank_of_the_run_gets_in(door, ranks):
    for number, rank in enumerate(ranks):
        assert call(make_channel(door.address, rank), number) == b"hello"
    assert len(door.asked) == len(ranks)


def test_a_rank_shows_its_own_certificate_and_its_own_ticket(door, ranks):
    """Neither is enough for another rank: not with the ticket of rank 2, not without any."""
    with pytest.raises(grpc.RpcError) as refused:
        call(make_channel(door.address, ranks[1]), 2)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.RpcError) as refused:
        call(make_channel(door.address, ranks[1]), 1, Gate([1]))
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_port_that_is_served_is_not_served_twice(door):
    """By gRPC's default a second server would bind it and take half of the calls."""
    second = grpc.server(ThreadPoolExecutor(1))
    with pytest.raises(RuntimeError, match="Failed to bind"):
        second.add_insecure_port(door.address)


def test_a_rank_does_not_talk_to_a_server_of_another_run(door, strangers, monkeypatch):
    monkeypatch.setattr("protos.channel.CONNECT_SECONDS", 0.5)
    caller = Caller(door.address, "the scheduler (rank 0)", 0, keys(1, strangers[1]))
    with pytest.raises(PeerLost, match=r"the scheduler \(rank 0\) at 127\.0\.0\.1:\d+ does not answer"):
        caller.call(caller.channel.unary_unary("/any.Service/AnyMethod"), b"hello", timeout=WAIT)
    caller.close()
    assert door.asked == []


def test_the_scheduler_lets_only_ranks_of_the_run_in(ranks, strangers):
    rules = Rules(7, FixedSampler([["a"]]), AllTestSampler(), FedAvg(2.0), True, rounds=1)
    coordinator = Coordinator(rules, [1, 2], Heard(), lambda days: Plan((DayPlan("20200101", None),), 1))
    server, address = start_scheduler_server(coordinator, "127.0.0.1", 2, GATE, ranks[0])
    fail = pb.Failure(rank=1, message="an outsider ends the run")
    for outsider in (grpc.insecure_channel(address), make_channel(address, strangers[1])):
        with outsider, pytest.raises(grpc.RpcError):
            pb_grpc.SchedulerServerStub(as_rank(1, outsider)).ReportFailure(fail, timeout=WAIT)
    assert coordinator.failure is None
    client = SchedulerClient(address, keys(1, ranks[1]))
    client.report_failure("a rank ends it")
    client.close()
    assert coordinator.failure == "a rank ends it"
    assert server.stop(0).wait(WAIT)


def test_a_data_server_lets_only_ranks_of_the_run_in(ranks, strangers, tmp_path, monkeypatch):
    monkeypatch.setattr("protos.channel.CONNECT_SECONDS", 0.5)
    store = UserStore(tmp_path)
    server, address = start_data_server(
        store, PrivateSchema(), lambda uid: True, "127.0.0.1", lambda error: None, GATE, seat(1), credentials=ranks[1]
    )
    for credentials, answer in ((strangers[2], PeerLost), (ranks[2], NotFound)):
        # To a client of rank 2 every uid is rank 1's.
        client = DataClient({1: address}, keys(2, credentials), store)
        with pytest.raises(answer):
            client.get_data_by_uid("somebody", "20200101", "train")
        client.close()
    assert server.stop(0).wait(WAIT)
    store.close()


# -- how the ranks get theirs -----------------------------------------------------------


class Comm:
    """A communicator between threads; keeps all that went through it."""

    def __init__(self, rank, shared):
        self.rank, self.shared = rank, shared

    def Get_rank(self):  # noqa: N802
        return self.rank

    def Get_size(self):  # noqa: N802
        return self.shared.size

    def Allgather(self, mine, into):  # noqa: N802
        into[:] = np.concatenate(self.shared.meet(self.rank, mine))

    def Allgatherv(self, mine, into):  # noqa: N802
        into[0][:] = np.concatenate(self.shared.meet(self.rank, mine))
        assert [len(part) for part in self.shared.last] == list(into[1])

    def Alltoall(self, mine, into):  # noqa: N802
        into[:] = [theirs[self.rank] for theirs in self.shared.meet(self.rank, mine)]

    def Bcast(self, buffer, root):  # noqa: N802
        # The others' buffers are for what they get: whatever lies in them is not sent.
        buffer[:] = self.shared.meet(self.rank, buffer if self.rank == root else buffer[:0])[root]


class Meeting:
    """Where the threads of a `Comm` meet."""

    def __init__(self, size):
        self.size, self.seen = size, b""
        self._here, self._barrier = {}, threading.Barrier(size)

    def meet(self, rank, mine):
        self._here[rank] = mine.copy()
        if self._barrier.wait(WAIT) == 0:
            self.last = [self._here[each] for each in range(self.size)]
            self.seen += b"".join(part.tobytes() for part in self.last)
        self._barrier.wait(WAIT)
        return self.last


def start_rank(rank, meeting, interface=None):
    role = FLSimRoleMaker(Comm(rank, meeting))
    role.prepare_network(interface)
    role.secure()
    return role


@pytest.fixture
def places(monkeypatch):
    """Sets which ranks are in which place, and that each has one address."""

    def put(*names):
        left = iter(names)
        monkeypatch.setattr("simulator.launch.role_maker.place", lambda: next(left))
        monkeypatch.setattr("simulator.launch.role_maker.own_addresses", lambda: [Address("eth0", "192.0.2.1")])

    return put


def test_ranks_on_several_hosts_get_certificates_and_keep_their_keys(places):
    places("a", "b", "b")
    meeting = Meeting(3)
    futures = [background(start_rank, rank, meeting) for rank in range(3)]
    roles = [future.result(WAIT) for future in futures]
    assert [role.where_to_listen(Path("/tmp/x")) for role in roles] == ["192.0.2.1"] * 3
    door = Door()
    server, address = make_server(
        lambda server: server.add_generic_rpc_handlers((door,)),
        "127.0.0.1",
        2,
        roles[0].gate,
        roles[0].keys.credentials,
    )
    # The scheduler calls nobody.
    assert roles[0].keys.tickets == {}
    for role in roles[1:]:
        assert call(make_channel(address, role.keys.credentials), role.rank, roles[0].gate) == b"hello"
    for role in roles:
        # No private key went over the network.
        assert role.keys.credentials.key.splitlines()[1] not in meeting.seen
    assert b"PRIVATE" not in meeting.seen
    assert meeting.seen.count(b"BEGIN PUBLIC KEY") == 3
    assert len({role.keys.credentials.key for role in roles}) == 3
    assert server.stop(0).wait(WAIT)


def test_ranks_on_one_host_need_none_and_meet_at_sockets(places):
    places("a", "a")
    meeting = Meeting(2)
    futures = [background(start_rank, rank, meeting, "eth0") for rank in range(2)]
    roles = [future.result(WAIT) for future in futures]
    where = Path("/tmp/x")
    assert [(role.keys.credentials, role.where_to_listen(where)) for role in roles] == [
        (None, "unix:/tmp/x/socket")
    ] * 2


def test_ranks_on_one_host_that_do_not_see_each_others_files_get_certificates(places, monkeypatch):
    """As containers do that share a network; they are on one host all the same."""
    places("a", "a", "a")
    folders = iter([("/tmp", "1 2"), ("/tmp", "1 2"), ("/tmp", "3 4")])
    monkeypatch.setattr("simulator.launch.role_maker.temporary_folder", lambda: next(folders))
    monkeypatch.setattr("simulator.launch.role_maker.is_here", lambda folder, identity: identity == "1 2")
    meeting = Meeting(3)
    futures = [background(start_rank, rank, meeting) for rank in range(3)]
    roles = [future.result(WAIT) for future in futures]
    assert [role.where_to_listen(Path("/tmp/x")) for role in roles] == ["127.0.0.1"] * 3
    assert all(role.keys.credentials is not None and not role.spans_hosts for role in roles)


def test_a_ticket_is_of_one_rank_at_one_server(places):
    places("a", "a", "a")
    meeting = Meeting(3)
    roles = [f.result(WAIT) for f in [background(start_rank, rank, meeting) for rank in range(3)]]
    for server in roles:
        for role in roles[1:]:
            assert server.gate.holder(role.keys.shown_to(server.rank)) == role.rank
            for elsewhere in {0, 1, 2} - {server.rank}:
                assert server.gate.holder(role.keys.shown_to(elsewhere)) is None
    assert len({ticket for role in roles for ticket in role.keys.tickets.values()}) == 6
    assert all(ticket.hex() not in repr(role.keys) for role in roles for ticket in role.keys.tickets.values())


# -- nothing in the clear ------------------------------------------------------------


@pytest.mark.parametrize("host", ["192.0.2.1", "0.0.0.0", "::", "127.0.0.1", "::1"])
def test_nothing_is_served_or_called_in_the_clear_on_an_address(host):
    with pytest.raises(FLError, match="an address of a host needs credentials"):
        make_server(lambda server: None, host, 1, GATE)
    with pytest.raises(FLError, match="an address of a host needs credentials"):
        make_channel(join_address(host, 1234))


@pytest.mark.parametrize("name", ["plain", "with a space", "with % and ? and é", "l" * 120])
def test_a_socket_is_reached_whatever_its_folder_is_called(tmp_path, name):
    """The system takes 107 bytes of a socket's path."""
    folder = tmp_path / name
    folder.mkdir()
    door, where = Door(), f"unix:{folder}/socket"
    server, address = make_server(lambda server: server.add_generic_rpc_handlers((door,)), where, 2, GATE)
    assert address == where
    assert (folder / "socket").is_socket()
    assert call(make_channel(address)) == b"hello"
    assert server.stop(0).wait(WAIT)


def test_a_folder_that_takes_no_socket_is_named(tmp_path):
    with pytest.raises(FLError, match=f"cannot listen on unix:{tmp_path}/none/socket.*point TMPDIR to a local disk"):
        make_server(lambda server: None, f"unix:{tmp_path}/none/socket", 1, GATE)


def test_an_address_that_cannot_be_bound_is_named(ranks):
    with pytest.raises(FLError, match=r"cannot listen on 198\.51\.100\.1"):
        make_server(lambda server: None, "198.51.100.1", 1, GATE, ranks[0])


def test_ipv6_goes_in_brackets(ranks):
    assert join_address("fd00::1", 7) == "[fd00::1]:7"
    door = Door()
    try:
        server, address = make_server(lambda server: server.add_generic_rpc_handlers((door,)), "::1", 2, GATE, ranks[0])
    except FLError:
        pytest.skip("this machine has no IPv6 loopback")
    assert call(make_channel(address, ranks[1])) == b"hello"
    assert server.stop(0).wait(WAIT)


# -- what is minted ------------------------------------------------------------------


def test_the_private_key_is_never_shown(ranks):
    one = ranks[1]
    secret = one.key.decode().splitlines()[1]
    assert secret not in f"{one!r} {one} {[one]!r}"
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 - as it travels to a shard


def test_certificates_hold_on_hosts_whose_clocks_differ_and_through_a_long_run(ranks):
    now = datetime.datetime.now(datetime.timezone.utc)
    for pem in (ranks[0].ca, *(rank.certificate for rank in ranks)):
        made = x509.load_pem_x509_certificate(pem)
        assert made.not_valid_before_utc < now - datetime.timedelta(hours=12)
        assert now + datetime.timedelta(days=200) < made.not_valid_after_utc < now + datetime.timedelta(days=400)


def test_only_the_authority_signs(ranks):
    authority = x509.load_pem_x509_certificate(ranks[0].ca)
    made = [x509.load_pem_x509_certificate(rank.certificate) for rank in ranks]
    for each in made:
        each.verify_directly_issued_by(authority)
        assert each.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
        assert isinstance(each.public_key().curve, ec.SECP256R1)
    assert len({each.serial_number for each in made} | {authority.serial_number}) == len(made) + 1
    # The authority's key went with `certify`: no rank holds it.
    theirs = authority.public_key().public_numbers()
    for rank in ranks:
        key = serialization.load_pem_private_key(rank.key, None)
        assert key.public_key().public_numbers() != theirs
