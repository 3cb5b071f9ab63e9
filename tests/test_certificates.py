"""Who may talk: a peer without a certificate of this very run reaches no method of any server."""

import datetime
import pickle
import threading

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from scheduler_run import WAIT, Heard, background

from protos.certificates import NAME, Credentials, certify, make_key
from protos.channel import Caller, join_address, make_channel, make_server
from protos.errors import FLError, NotFound, PeerLost
from protos.stubs import scheduler_server_pb2 as pb
from protos.stubs import scheduler_server_pb2_grpc as pb_grpc
from scheduler.coordinator import Coordinator
from scheduler.rounds import Rules
from scheduler.samplers import AllTestSampler, FixedSampler
from scheduler.scheduler_client import SchedulerClient
from scheduler.scheduler_server import start_scheduler_server
from scheduler.server_optimizers import FedAvg
from simulator.addresses import Address
from simulator.data_client import DataClient
from simulator.data_server import PrivateSchema, start_data_server
from simulator.role_maker import FLSimRoleMaker
from simulator.store import UserStore


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
        lambda server: server.add_generic_rpc_handlers((door,)), "127.0.0.1", 2, ranks[0]
    )
    yield door
    assert server.stop(0).wait(WAIT)


def call(channel):
    with channel:
        return channel.unary_unary("/any.Service/AnyMethod")(b"hello", timeout=WAIT)


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
    for rank in ranks:
        assert call(make_channel(door.address, rank)) == b"hello"
    assert len(door.asked) == len(ranks)


def test_a_rank_does_not_talk_to_a_server_of_another_run(door, strangers):
    caller = Caller(door.address, "the scheduler (rank 0)", strangers[1])
    with pytest.raises(PeerLost, match=r"the scheduler \(rank 0\) at 127\.0\.0\.1:\d+ does not answer"):
        caller.call(caller.channel.unary_unary("/any.Service/AnyMethod"), b"hello", timeout=WAIT)
    caller.close()
    assert door.asked == []


def test_the_scheduler_lets_only_ranks_of_the_run_in(ranks, strangers):
    rules = Rules(7, FixedSampler([["a"]]), AllTestSampler(), FedAvg(2.0), True, rounds=1)
    coordinator = Coordinator(rules, [1, 2], Heard())
    server, address = start_scheduler_server(coordinator, "127.0.0.1", 2, ranks[0])
    fail = pb.Failure(rank=1, message="an outsider ends the run")
    for outsider in (grpc.insecure_channel(address), make_channel(address, strangers[1])):
        with outsider, pytest.raises(grpc.RpcError):
            pb_grpc.SchedulerServerStub(outsider).ReportFailure(fail, timeout=WAIT)
    assert coordinator.failure is None
    client = SchedulerClient(address, 1, ranks[1])
    client.report_failure("a rank ends it")
    client.close()
    assert coordinator.failure == "a rank ends it"
    assert server.stop(0).wait(WAIT)


def test_a_data_server_lets_only_ranks_of_the_run_in(ranks, strangers, tmp_path):
    store = UserStore(tmp_path)
    server, address = start_data_server(
        store, PrivateSchema(), lambda uid: True, "127.0.0.1", lambda error: None, credentials=ranks[1]
    )
    for credentials, answer in ((strangers[2], PeerLost), (ranks[2], NotFound)):
        # To a client of rank 2 every uid is rank 1's.
        client = DataClient({1: address}, 2, store, credentials)
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

    def Bcast(self, buffer, root):  # noqa: N802
        buffer[:] = self.shared.meet(self.rank, buffer)[root]


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
        monkeypatch.setattr("simulator.role_maker.place", lambda: next(left))
        monkeypatch.setattr("simulator.role_maker.own_addresses", lambda: [Address("eth0", "192.0.2.1")])

    return put


def test_ranks_on_several_hosts_get_certificates_and_keep_their_keys(places):
    places("a", "b", "b")
    meeting = Meeting(3)
    futures = [background(start_rank, rank, meeting) for rank in range(3)]
    roles = [future.result(WAIT) for future in futures]
    assert [role.listen_address() for role in roles] == ["192.0.2.1"] * 3
    door = Door()
    server, address = make_server(
        lambda server: server.add_generic_rpc_handlers((door,)), "127.0.0.1", 2, roles[0].credentials
    )
    for role in roles:
        assert call(make_channel(address, role.credentials)) == b"hello"
        # No private key went over the network.
        assert role.credentials.key.splitlines()[1] not in meeting.seen
    assert b"PRIVATE" not in meeting.seen
    assert meeting.seen.count(b"BEGIN PUBLIC KEY") == 3
    assert len({role.credentials.key for role in roles}) == 3
    assert server.stop(0).wait(WAIT)


def test_ranks_on_one_host_need_none(places):
    places("a", "a")
    meeting = Meeting(2)
    futures = [background(start_rank, rank, meeting, "eth0") for rank in range(2)]
    roles = [future.result(WAIT) for future in futures]
    assert [(role.credentials, role.listen_address()) for role in roles] == [(None, "127.0.0.1")] * 2


# -- in the clear on loopback only ---------------------------------------------------


@pytest.mark.parametrize("host", ["192.0.2.1", "0.0.0.0", "::"])
def test_nothing_is_served_or_called_in_the_clear_beyond_loopback(host):
    with pytest.raises(FLError, match=r"is not loopback: .* needs credentials"):
        make_server(lambda server: None, host, 1)
    with pytest.raises(FLError, match=r"is not loopback: .* needs credentials"):
        make_channel(join_address(host, 1234))


def test_an_address_that_cannot_be_bound_is_named(ranks):
    with pytest.raises(FLError, match=r"cannot listen on 198\.51\.100\.1"):
        make_server(lambda server: None, "198.51.100.1", 1, ranks[0])


def test_ipv6_goes_in_brackets(ranks):
    assert join_address("fd00::1", 7) == "[fd00::1]:7"
    door = Door()
    try:
        server, address = make_server(lambda server: server.add_generic_rpc_handlers((door,)), "::1", 2, ranks[0])
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
