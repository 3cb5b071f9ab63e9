"""simulator/users/data_server.py and data_client.py: two simulators in one process, over real gRPC."""

from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from doors import GATE, channel_of, keys, seat

from protos.codec import from_bundle, specs, tensor_chunks, to_bundle
from protos.errors import AlreadyDone, BadInput, Forbidden, NotFound, PeerLost, WrongState
from protos.stubs import data_server_pb2 as pb
from protos.stubs import data_server_pb2_grpc as pb_grpc
from protos.stubs import tensor_pb2
from scheduler.rules.streams import owner_of
from simulator.users.data_client import DataClient
from simulator.users.data_server import PrivateSchema, start_data_server
from simulator.users.seat import LoadingDays
from simulator.users.store import UserRecord, UserStore

DAY = "20200101"
RANKS = (1, 2)
WAIT = 20.0
PRIVATE = {"bias": np.array([0.5, -1.5], np.float32), "scale": np.array(3.0)}


def uid_of(rank, number=0):
    """The number-th uid that a rank owns."""
    return [uid for uid in (f"u{i}" for i in range(100)) if owner_of(uid, RANKS) == rank][number]


MINE, THEIRS = uid_of(1), uid_of(2)


@pytest.fixture
def pair(tmp_path):
    """Simulators 1 and 2, each with a store, a data server and a client."""
    stores, servers, addresses, crashes = {}, {}, {}, []
    schema = PrivateSchema()
    schema.set(specs(PRIVATE))
    for rank in RANKS:
        (tmp_path / str(rank)).mkdir()
        stores[rank] = UserStore(tmp_path / str(rank))
        servers[rank], addresses[rank] = start_data_server(
            stores[rank], schema, lambda uid, rank=rank: owner_of(uid, RANKS) == rank,
            f"unix:{tmp_path}/{rank}/socket", crashes.append, GATE, seat(rank),
        )  # fmt: skip
    clients = {rank: DataClient(addresses, keys(rank), stores[rank]) for rank in RANKS}
    yield SimpleNamespace(schema=schema, stores=stores, servers=servers, addresses=addresses, clients=clients)
    for rank in RANKS:
        clients[rank].close()
        servers[rank].stop(0).wait(WAIT)
        stores[rank].close()
    assert crashes == []


def rows(*values):
    return {"x": np.array(values, np.int32), "y": np.arange(len(values), dtype=np.float32)}


def record(uid, examples, order=(0, 0), date=DAY, split="train"):
    return UserRecord(uid, date, split, order, to_bundle(examples).SerializeToString())


# -- examples ----------------------------------------------------------------------


@pytest.mark.parametrize("rank", RANKS)
def test_both_find_a_users_examples_wherever_they_were_read(pair, rank):
    """Files 2 and 0 are read by simulator 1, file 1 by simulator 2; the user is asked for from both."""
    for uid in (MINE, THEIRS):
        owner = owner_of(uid, RANKS)
        assert pair.clients[1].send_data(owner, [record(uid, rows(5, 6), (2, 0))]) == 1
        assert pair.clients[2].send_data(owner, [record(uid, rows(4), (1, 0))]) == 1
        assert pair.clients[1].send_data(owner, [record(uid, rows(1), (0, 0)), record(uid, rows(2, 3), (0, 1))]) == 2
        got = pair.clients[rank].get_data_by_uid(uid, DAY, "train")
        assert got["x"].tolist() == [1, 2, 3, 4, 5, 6]
        assert got["y"].tolist() == [0, 0, 1, 0, 0, 1]
        assert got["x"].dtype == np.int32


def test_users_are_spread_over_their_owners():
    owners = [owner_of(f"u{i}", RANKS) for i in range(1000)]
    assert 420 < owners.count(1) < 580
    assert owner_of(MINE, (7,)) == 7


@pytest.mark.parametrize("sender", RANKS)
def test_pieces_of_one_file_sent_in_several_batches_are_all_kept(pair, sender):
    """A shard sends a large file's records in batches; a reader may come back to a uid."""
    pair.clients[sender].send_data(1, [record(MINE, rows(1), (0, 0))])
    pair.clients[sender].send_data(1, [record(MINE, rows(2), (0, 900))])
    assert pair.clients[1].get_data_by_uid(MINE, DAY, "train")["x"].tolist() == [1, 2]


@pytest.mark.parametrize("uid", [MINE, THEIRS])
def test_a_user_without_data_is_not_found(pair, uid):
    pair.clients[1].send_data(owner_of(uid, RANKS), [record(uid, rows(1))])
    for date, split in (("20200102", "train"), (DAY, "test")):
        with pytest.raises(NotFound, match=f"uid '{uid}' has no {split} data on '{date}'"):
            pair.clients[1].get_data_by_uid(uid, date, split)


def test_a_cleared_day_is_gone_from_ones_own_server_only(pair):
    for uid in (MINE, THEIRS):
        pair.clients[1].send_data(owner_of(uid, RANKS), [record(uid, rows(1))])
    pair.clients[2].clear_user_data(DAY, "train")
    with pytest.raises(NotFound):
        pair.clients[1].get_data_by_uid(THEIRS, DAY, "train")
    assert pair.clients[2].get_data_by_uid(MINE, DAY, "train")["x"].tolist() == [1]


def test_a_batch_larger_than_what_is_committed_at_once_arrives_whole(pair, monkeypatch):
    monkeypatch.setattr("simulator.users.data_server.BATCH_BYTES", 1000)
    uids = [uid_of(2, number) for number in range(20)]
    sent = [record(uid, rows(*range(i + 1), *[0] * 50)) for i, uid in enumerate(uids)]
    assert pair.clients[1].send_data(2, sent) == 20
    for i, uid in enumerate(uids):
        assert len(pair.clients[1].get_data_by_uid(uid, DAY, "train")["x"]) == i + 51


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ({"x": np.zeros(0)}, "has no examples"),
        ({"x": np.zeros(2), "y": np.zeros(3)}, "arrays do not match"),
        ({"x": np.array(1.0)}, "is not an array with one row an example"),
        ({}, "no arrays"),
    ],
)
def test_examples_that_cannot_be_are_not_taken(pair, examples, message):
    with pytest.raises(BadInput, match=f"uid '{THEIRS}'.*{message}"):
        pair.clients[1].send_data(2, [record(THEIRS, examples)])
    assert not pair.stores[2].knows(THEIRS)


def test_what_belongs_to_another_server_is_refused(pair):
    with pytest.raises(WrongState, match=f"uid '{MINE}' belongs to another data server"):
        pair.clients[1].send_data(2, [record(MINE, rows(1))])
    assert not pair.stores[2].knows(MINE)
    with channel_of(2, pair.addresses[2]) as channel:
        stub = pb_grpc.DataServerStub(channel)
        for call in (
            lambda: list(stub.GetUserData(pb.UserDataKey(uid=MINE), timeout=WAIT)),
            lambda: list(stub.GetUserParams(pb.UserParamsKey(uid=MINE), timeout=WAIT)),
            lambda: stub.UpdateUserParams(iter([pb.UserParams(key=pb.UserParamsKey(uid=MINE))]), timeout=WAIT),
        ):
            with pytest.raises(grpc.RpcError, match="belongs to another data server") as caught:
                call()
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


# -- private parameters ------------------------------------------------------------


def scaled(by):
    return {name: value * value.dtype.type(by) for name, value in PRIVATE.items()}


def assert_equal(got, wanted):
    assert list(got) == list(wanted)
    assert all(got[name].tobytes() == wanted[name].tobytes() for name in wanted)
    assert specs(got) == specs(wanted)


@pytest.mark.parametrize("writer", RANKS)
@pytest.mark.parametrize("reader", RANKS)
def test_private_parameters_are_those_the_round_began_with(pair, writer, reader):
    pair.clients[1].send_data(1, [record(MINE, rows(1))])
    assert pair.clients[reader].get_param_by_uid(MINE, 5) is None
    pair.clients[writer].set_param_by_uid(MINE, 0, scaled(1))
    pair.clients[writer].set_param_by_uid(MINE, 2, scaled(2))
    assert pair.clients[reader].get_param_by_uid(MINE, 0) is None
    assert_equal(pair.clients[reader].get_param_by_uid(MINE, 1), scaled(1))
    assert_equal(pair.clients[reader].get_param_by_uid(MINE, 2), scaled(1))
    assert_equal(pair.clients[reader].get_param_by_uid(MINE, 3), scaled(2))


def test_private_parameters_of_many_chunks_arrive(pair, tmp_path):
    large = {"bias": np.arange(1_500_000, dtype=np.float32)}
    schema = PrivateSchema()
    schema.set(specs(large))
    where = f"unix:{tmp_path}/socket"
    server, address = start_data_server(
        pair.stores[2], schema, lambda uid: True, where, lambda error: None, GATE, seat(2)
    )
    client = DataClient({1: pair.addresses[1], 2: address}, keys(1), pair.stores[1])
    client.send_data(2, [record(THEIRS, rows(1))])
    client.set_param_by_uid(THEIRS, 0, large)
    assert_equal(client.get_param_by_uid(THEIRS, 1), large)
    client.close()
    server.stop(0).wait(WAIT)


def test_an_unknown_uid_has_no_private_parameters(pair):
    with pytest.raises(NotFound, match=f"unknown uid '{THEIRS}'"):
        pair.clients[1].get_param_by_uid(THEIRS, 0)
    with pytest.raises(NotFound, match=f"unknown uid '{THEIRS}'"):
        pair.clients[1].set_param_by_uid(THEIRS, 0, PRIVATE)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({**PRIVATE, "bias": np.array([0.5, np.nan], np.float32)}, f"uid '{THEIRS}': .*'bias' holds NaN or infinity"),
        ({**PRIVATE, "scale": np.array(np.inf)}, f"uid '{THEIRS}': .*'scale' holds NaN or infinity"),
        ({**PRIVATE, "bias": np.zeros(3, np.float32)}, r"'bias' is float32\[3\], expected float32\[2\]"),
        ({**PRIVATE, "bias": np.zeros(2)}, r"'bias' is float64\[2\], expected float32\[2\]"),
        ({**PRIVATE, "other": np.zeros(2)}, "unknown tensor 'other'; known are bias, scale"),
        ({"bias": PRIVATE["bias"]}, "tensors are missing: scale"),
    ],
)
def test_private_parameters_that_cannot_be_are_not_taken(pair, params, message):
    pair.clients[1].send_data(2, [record(THEIRS, rows(1))])
    pair.clients[1].set_param_by_uid(THEIRS, 0, PRIVATE)
    with pytest.raises(BadInput, match=message):
        pair.clients[1].set_param_by_uid(THEIRS, 1, params)
    assert_equal(pair.clients[1].get_param_by_uid(THEIRS, 2), PRIVATE)


def test_a_schema_must_be_known_and_be_kept():
    schema = PrivateSchema()
    with pytest.raises(WrongState, match="no private parameters are known yet"):
        schema.check("a", PRIVATE)
    schema.set(specs(PRIVATE))
    schema.check("a", PRIVATE)
    with pytest.raises(BadInput, match=r"uid 'a': private parameters are missing: \['scale'\]"):
        schema.check("a", {"bias": PRIVATE["bias"]})
    with pytest.raises(BadInput, match=r"uid 'a': private parameter 'more' .* is not the model's"):
        schema.check("a", {**PRIVATE, "more": np.zeros(1)})


# -- messages no client of ours sends ----------------------------------------------


def call_with(pair, method, *messages):
    with channel_of(2, pair.addresses[2]) as channel:
        return getattr(pb_grpc.DataServerStub(channel), method)(iter(messages), timeout=WAIT)


@pytest.mark.parametrize(
    ("method", "messages", "message"),
    [
        ("UpdateUserParams", [], "the first message names no uid"),
        ("UpdateUserParams", [pb.UserParams(chunk=tensor_pb2.TensorChunk())], "the first message names no uid"),
        ("SendData", [pb.UserData(key=pb.UserDataKey(uid=THEIRS, set=pb.DataSet(split="val")))], "split 'val'"),
        ("SendData", [pb.UserData(key=pb.UserDataKey(uid=""))], "0 characters"),
    ],
)
def test_a_malformed_stream_is_refused(pair, method, messages, message):
    with pytest.raises(grpc.RpcError) as caught:
        call_with(pair, method, *messages)
    assert message in caught.value.details()
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_a_date_that_is_none_never_becomes_a_key(pair):
    key = pb.UserDataKey(uid=THEIRS, set=pb.DataSet(date="20200101/train", split="train"))
    with pytest.raises(grpc.RpcError) as caught:
        call_with(pair, "SendData", pb.UserData(key=key, examples=to_bundle(rows(1))))
    assert "is not of the form YYYYMMDD" in caught.value.details()


def test_the_service_clears_and_reads_by_rpc_too(pair):
    pair.clients[2].send_data(2, [record(THEIRS, rows(1)), record(THEIRS, rows(2), (1, 0))])
    with channel_of(2, pair.addresses[2]) as channel:
        stub = pb_grpc.DataServerStub(channel)
        key = pb.UserDataKey(uid=THEIRS, set=pb.DataSet(date=DAY, split="train"))
        assert [from_bundle(b)["x"].tolist() for b in stub.GetUserData(key, timeout=WAIT)] == [[1], [2]]
        assert stub.ClearUserData(key.set, timeout=WAIT).users == 2
        chunks = [
            pb.UserParams(key=pb.UserParamsKey(uid=THEIRS, step=3) if i == 0 else None, chunk=chunk)
            for i, chunk in enumerate(tensor_chunks(PRIVATE))
        ]
        assert stub.UpdateUserParams(iter(chunks), timeout=WAIT).users == 1
    assert_equal(pair.clients[2].get_param_by_uid(THEIRS, 4), PRIVATE)


def test_only_the_simulator_itself_forgets_its_examples(pair):
    pair.clients[1].send_data(2, [record(THEIRS, rows(1))])
    with channel_of(1, pair.addresses[2]) as channel, pytest.raises(grpc.RpcError) as caught:
        pb_grpc.DataServerStub(channel).ClearUserData(pb.DataSet(date=DAY, split="train"), timeout=WAIT)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.details() == "rank 2 alone forgets the examples that are kept here, not rank 1"
    assert pair.clients[1].get_data_by_uid(THEIRS, DAY, "train")["x"].tolist() == [1]


def test_examples_come_while_their_day_is_loaded_and_at_no_other_time():
    days = LoadingDays()
    for date, split in ((DAY, "train"), (DAY, "test")):
        with pytest.raises(WrongState, match=f"examples of {DAY}, {split}, came while that day is not being loaded"):
            days.check(date, split)
    with days.loading(DAY, "train"):
        days.check(DAY, "train")
        with pytest.raises(WrongState):
            days.check(DAY, "test")
    with pytest.raises(WrongState):
        days.check(DAY, "train")


# -- what private parameters begin with --------------------------------------------


def test_what_private_parameters_begin_with_goes_from_the_first_simulator_to_the_others(pair):
    start = {"bias": np.array([7.0, 8.0], np.float32)}
    with pytest.raises(Forbidden, match="rank 1 alone says what private parameters begin with, not rank 2"):
        pair.clients[2].set_private_start(start)
    with pytest.raises(BadInput, match=r"'bias' float32\[3\] is not the model's"):
        pair.clients[1].set_private_start({"bias": np.zeros(3, np.float32)})
    with pytest.raises(BadInput, match="'scale' holds NaN"):
        pair.clients[1].set_private_start({"scale": np.array(np.nan)})
    assert pair.schema.start == {}
    pair.clients[1].set_private_start(start)
    assert_equal(pair.schema.start, start)
    with pytest.raises(AlreadyDone):
        pair.clients[1].set_private_start(start)


def test_what_private_parameters_begin_with_comes_before_the_first_day(pair):
    pair.clients[1].send_data(2, [record(THEIRS, rows(1))])
    with pytest.raises(WrongState, match="came after the first day was loaded"):
        pair.clients[1].set_private_start(PRIVATE)


def test_a_data_server_that_is_gone_is_named(pair):
    pair.servers[2].stop(0).wait(WAIT)
    with pytest.raises(PeerLost, match=f"the data server of rank 2 at {pair.addresses[2]} does not answer"):
        pair.clients[1].get_data_by_uid(THEIRS, DAY, "train")


def test_a_start_of_private_parameters_beyond_a_message_arrives(pair):
    large = {"bias": np.arange(18_000_000, dtype=np.float32)}  # 72 MB
    pair.schema.set(specs(large))
    pair.clients[1].set_private_start(large)
    assert_equal(pair.schema.start, large)
