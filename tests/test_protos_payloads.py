"""protos/payloads.py: a user's tensors of any size, stored as one payload and sent in pieces."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos import payloads
from protos.codec import assemble, tensor_chunks, to_bundle
from protos.errors import BadInput, TooLarge
from protos.payloads import join_bundles, join_users, pack, pieces, unpack
from protos.stubs import data_server_pb2 as pb
from protos.stubs import tensor_pb2
from simulator.users import store as store_module
from simulator.users.store import UserRecord, UserStore

quick = settings(derandomize=True, max_examples=80, deadline=None)
LARGE = {"x": np.arange(60, dtype=np.float32).reshape(15, 4), "none": np.zeros((0, 3)), "y": np.arange(15)}


@pytest.fixture
def small_pieces(monkeypatch):
    """The large form at a hundred bytes."""
    with monkeypatch.context() as patch:
        patch.setattr(payloads, "PIECE_BYTES", 100)
        patch.setattr(payloads, "CHUNK_BYTES", 24)
        yield


def assert_same(got, sent):
    assert list(got) == list(sent)
    for name, array in sent.items():
        assert (got[name].dtype, got[name].shape, got[name].tobytes()) == (array.dtype, array.shape, array.tobytes())


def over_the_wire(bundles):
    return [tensor_pb2.TensorBundle.FromString(bundle.SerializeToString()) for bundle in bundles]


@quick
@given(st.lists(st.integers(0, 90), max_size=5), st.integers(1, 300), st.integers(1, 64))
def test_tensors_of_any_size_survive_the_store_and_the_wire(sizes, piece, chunk):
    tensors = {f"t{i}": np.arange(n, dtype=np.int32) for i, n in enumerate(sizes)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payloads, "PIECE_BYTES", piece)
        patch.setattr(payloads, "CHUNK_BYTES", chunk)
        payload = pack(tensors)
        assert_same(unpack(payload), tensors)
        sent = over_the_wire(pieces(payload))
        assert [bundle.more for bundle in sent] == [True] * (len(sent) - 1) + [False]
        (got,) = join_bundles(sent)
        assert_same(got, tensors)


def test_a_small_user_is_one_message_and_stored_as_it_comes():
    tensors = {"x": np.zeros((100, 60), np.float32), "y": np.zeros(100, np.int64)}
    payload = pack(tensors)
    assert payload == to_bundle(tensors).SerializeToString()
    (bundle,) = pieces(payload)
    assert bundle.SerializeToString() == payload


def test_no_piece_is_larger_than_its_bound(small_pieces):
    sent = list(pieces(pack(LARGE)))
    assert len(sent) > 3
    assert all(bundle.ByteSize() <= 100 + 24 for bundle in sent)


def test_a_payload_of_whole_tensors_is_cut_too(small_pieces):
    """As a checkpoint of a run of one rank may hold it: each tensor in one chunk."""
    payload = to_bundle(LARGE).SerializeToString()
    assert_same(unpack(payload), LARGE)
    sent = list(pieces(payload))
    assert all(len(chunk.data) <= 24 for bundle in sent for chunk in bundle.tensors)
    (got,) = join_bundles(sent)
    assert_same(got, LARGE)


def test_payloads_follow_each_other_in_one_stream(small_pieces):
    small = {"x": np.ones(3)}
    stream = [*pieces(pack(LARGE)), *pieces(pack(small)), *pieces(pack(LARGE))]
    for got, sent in zip(join_bundles(over_the_wire(stream)), [LARGE, small, LARGE], strict=True):
        assert_same(got, sent)


def test_what_was_joined_is_stored_as_one_payload(small_pieces):
    key = pb.UserDataKey(uid="a")
    sent = [pb.UserData(key=key if i == 0 else None, examples=b) for i, b in enumerate(pieces(pack(LARGE)))]
    ((first, tensors, payload),) = join_users(sent, "examples", lambda message: None)
    assert first.key.uid == "a"
    assert_same(tensors, LARGE)
    assert payload == pack(LARGE)


def test_a_large_message_with_unknown_fields_is_stored_without_them(small_pieces):
    bundle = tensor_pb2.TensorBundle.FromString(to_bundle(LARGE).SerializeToString() + b"\x7a\x03abc")
    ((_, _, payload),) = join_users([pb.UserData(examples=bundle)], "examples", lambda message: None)
    assert payload == pack(LARGE)


def part(*chunks, more=False):
    return tensor_pb2.TensorBundle(tensors=chunks, more=more)


HALVES = list(tensor_chunks({"x": np.arange(4, dtype=np.uint8)}, 2))
OTHER = list(tensor_chunks({"y": np.arange(2, dtype=np.uint8)}))
BROKEN = {
    "nothing follows": ([part(HALVES[0], more=True)], "the stream ended before the last piece"),
    "nothing follows a whole tensor": ([part(*HALVES, more=True)], "the stream ended before the last piece"),
    "an empty piece": ([part(HALVES[0], more=True), part(more=True), part(HALVES[1])], "an empty piece"),
    "an empty piece at first": ([part(more=True), part(*HALVES)], "an empty piece"),
    "out of order": ([part(HALVES[1], more=True), part(HALVES[0])], "out of order"),
    "twice": ([part(HALVES[0], more=True), part(HALVES[0], more=True), part(HALVES[1])], "out of order"),
    "one left out": ([part(HALVES[0], more=True), part(*OTHER)], "out of order"),
    "the end left out": ([part(*OTHER, HALVES[0], more=True), part()], "the stream ended at byte 2 of 4"),
    "a tensor again": ([part(*HALVES, more=True), part(*HALVES)], "'x' came twice"),
}


@pytest.mark.parametrize(("bundles", "message"), BROKEN.values(), ids=list(BROKEN))
def test_pieces_that_do_not_fit_are_refused(bundles, message):
    with pytest.raises(BadInput, match=message):
        list(join_bundles(bundles))


def test_a_piece_that_names_a_user_is_none():
    sent = [pb.UserData(key=pb.UserDataKey(uid=uid), examples=part(half, more=uid == "a"))
            for uid, half in zip("ab", HALVES, strict=True)]  # fmt: skip
    with pytest.raises(BadInput, match="uid 'a': uid 'b' came before its last piece"):
        list(join_users(sent, "examples", lambda message: None))


@pytest.mark.parametrize("cut", [1, 2, 3, 30, -1])
def test_a_large_payload_that_was_cut_off_is_refused(small_pieces, cut):
    with pytest.raises(BadInput):
        unpack(pack(LARGE)[:cut] if cut < 0 else pack(LARGE) + pack(LARGE)[:cut])


def test_a_large_payload_with_a_damaged_byte_is_refused_or_other_tensors(small_pieces):
    payload = pack(LARGE)
    for at in range(len(payload)):
        damaged = bytearray(payload)
        damaged[at] ^= 0x84
        try:
            unpack(bytes(damaged))
        except (BadInput, TooLarge):
            continue
    assert_same(assemble(payloads._chunks(payload)), LARGE)


# -- more than the store holds -------------------------------------------------------


def test_examples_that_no_record_holds_are_refused_by_uid_and_size(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_VALUE", 1 << 20)
    store = UserStore(tmp_path)
    with pytest.raises(TooLarge, match=r"uid 'a': 0\.00 GiB of examples at once.*let the reader yield them in parts"):
        store.put_examples([UserRecord("a", "20200101", "train", (0, 0), bytes((1 << 20) + 1))])
    assert not store.knows("a")
    store.put_examples([UserRecord("a", "20200101", "train", (0, n), bytes(1 << 19)) for n in range(3)])
    assert len(store.get_examples("a", "20200101", "train")) == 3
    store.close()


def test_what_a_user_keeps_is_refused_beyond_the_size_of_a_record(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_VALUE", 1 << 20)
    store = UserStore(tmp_path)
    with pytest.raises(TooLarge, match=r"uid 'a': .* of private parameters.*: let fewer parameters be private"):
        store.put_private("a", 0, bytes((1 << 20) - 8_000))
    for step in range(3):
        store.put_private("a", step, bytes([step]) * ((1 << 20) - 10_000))
    assert store.get_private("a", 3)[:1] == b"\x02"
    store.close()
