"""protos/codec.py: every array survives the wire, every malformed stream of chunks is refused."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protos.codec import (
    CHUNK_BYTES,
    DTYPES,
    MAX_NAME,
    MAX_RANK,
    TensorAssembler,
    TensorSpec,
    assemble,
    from_bundle,
    specs,
    tensor_chunks,
    to_bundle,
)
from protos.errors import BadInput, FLError, TooLarge
from protos.stubs import tensor_pb2

quick = settings(derandomize=True, max_examples=120, deadline=None)

VIEWS = [
    lambda a: a,
    np.transpose,
    np.asfortranarray,
    lambda a: a[..., ::2] if a.ndim else a,
    lambda a: a[::-1] if a.ndim else a,
]


@st.composite
def arrays(draw):
    """Any dtype that is carried, 0 to 4 dimensions, empty ones too, contiguous or not, any bits (NaN's as well)."""
    dtype = np.dtype(draw(st.sampled_from(sorted(DTYPES))))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
    made = (raw % 2 if dtype.kind == "b" else raw).view(dtype).reshape(shape)
    return draw(st.sampled_from(VIEWS))(made)


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
tensors = st.dictionaries(names, arrays(), max_size=4)


def assert_same(got, sent):
    assert list(got) == list(sent)
    for name, array in sent.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
        assert got[name].tobytes() == array.tobytes()


def chunk(data=b"", *, name="a", dtype="", shape=(), offset=0):
    return tensor_pb2.TensorChunk(name=name, dtype=dtype, shape=shape, offset=offset, data=data)


def first(data=b"", *, name="a", dtype="uint8", shape=(4,)):
    return chunk(data, name=name, dtype=dtype, shape=shape)


@quick
@given(tensors, st.integers(1, 200))
def test_any_tensors_survive_chunks_of_any_size(sent, chunk_bytes):
    chunks = list(tensor_chunks(sent, chunk_bytes))
    assert all(len(c.data) <= chunk_bytes for c in chunks)
    wire = [tensor_pb2.TensorChunk.FromString(c.SerializeToString()) for c in chunks]
    assert_same(assemble(wire), sent)
    assert_same(assemble(wire, specs(sent)), sent)


@quick
@given(tensors)
def test_any_tensors_survive_a_bundle(sent):
    wire = tensor_pb2.TensorBundle.FromString(to_bundle(sent).SerializeToString())
    assert_same(from_bundle(wire), sent)


@pytest.mark.parametrize("dtype", [">f4", ">i2", ">u8"])
def test_big_endian_values_arrive_as_they_were_sent(dtype):
    """A reader may well hand over what np.frombuffer(raw, ">i4") gave."""
    sent = np.array([1, 2, 770], dtype)
    np.testing.assert_array_equal(assemble(tensor_chunks({"a": sent}))["a"], [1, 2, 770])


def test_chunks_default_to_two_mebibytes():
    lengths = [len(c.data) for c in tensor_chunks({"a": np.zeros(2 * CHUNK_BYTES + 1, np.uint8)})]
    assert lengths == [1 << 21, 1 << 21, 1]


@pytest.mark.parametrize("array", [np.array([{}], object), np.array(["a"]), np.array([1j]), np.zeros(1, "M8[s]")])
def test_a_dtype_that_is_not_carried_is_not_sent(array):
    with pytest.raises(BadInput, match=r"tensor w: dtype .* cannot be sent"):
        list(tensor_chunks({"w": array}))


MALFORMED = {
    "begins in the middle": ([chunk(b"xx", offset=2)], "out of order"),
    "a gap": ([first(b"ab"), chunk(b"d", offset=3)], "expected byte 2 of 'a'"),
    "an overlap": ([first(b"abc"), chunk(b"cd", offset=2)], "out of order"),
    "another tensor in between": ([first(b"ab"), first(b"abcd", name="b")], "'b': chunk at byte 0 is out of order"),
    "too many bytes at once": ([first(b"abcde")], "5 bytes or more came, its shape holds 4"),
    "too many bytes later": ([first(b"ab"), chunk(b"cde", offset=2)], "5 bytes or more came"),
    "bytes after the end": ([first(b"abcd"), chunk(b"e", offset=4)], "5 bytes or more came"),
    "truncated": ([first(b"abc")], "ended at byte 3 of 4"),
    "no bytes at all": ([first()], "an empty chunk at byte 0 of 4"),
    "an empty chunk in between": ([first(b"ab"), chunk(offset=2)], "an empty chunk at byte 2 of 4"),
    "twice": ([first(b"abcd"), first(b"abcd")], "'a' came twice"),
    "an empty tensor twice": ([first(shape=(0,)), first(shape=(0,))], "'a' came twice"),
    "dtype object": ([first(b"abcd", dtype="object")], "unknown dtype 'object'"),
    "dtype with byte order": ([first(b"abcd", dtype=">u4", shape=(1,))], "unknown dtype '>u4'"),
    "no dtype": ([first(b"abcd", dtype="")], "unknown dtype ''"),
    "dtype of a structure": ([first(b"abcd", dtype="u1,u1")], "unknown dtype"),
}


@pytest.mark.parametrize(("chunks", "message"), MALFORMED.values(), ids=list(MALFORMED))
def test_a_malformed_stream_is_refused(chunks, message):
    with pytest.raises(BadInput, match=message):
        assemble(chunks)


@pytest.mark.parametrize("name", ["", "n" * (MAX_NAME + 1)])
def test_a_name_beyond_its_bound_is_refused(name):
    with pytest.raises(TooLarge, match=f"{len(name)} characters; 1 to {MAX_NAME}"):
        assemble([first(b"abcd", name=name)])


def test_the_longest_name_and_the_most_dimensions_pass():
    sent = {"n" * MAX_NAME: np.ones((1,) * MAX_RANK, np.int8)}
    assert_same(assemble(tensor_chunks(sent)), sent)


def test_more_dimensions_than_numpy_knows_are_refused():
    with pytest.raises(TooLarge, match=f"{MAX_RANK + 1} dimensions"):
        assemble([first(b"a", shape=(1,) * (MAX_RANK + 1))])


@pytest.mark.parametrize("shape", [(1 << 40, 1 << 40), (1 << 63, 1 << 63), (1 << 63, 0), (1 << 40, 1 << 40, 0)])
def test_an_absurd_shape_is_refused_before_memory_is_asked_for(shape):
    with pytest.raises((TooLarge, BadInput), match="tensor 'a'"):
        assemble([first(b"a", shape=shape)])


def test_a_stream_beyond_max_bytes_is_refused():
    assembler = TensorAssembler(max_bytes=6)
    assembler.add(first(b"abcd"))
    with pytest.raises(TooLarge, match=r"'b': uint8\[3\] goes beyond"):
        assembler.add(first(b"abc", name="b", shape=(3,)))
    exact = TensorAssembler(max_bytes=4)
    exact.add(first(b"abcd"))
    assert exact.finish()["a"].tobytes() == b"abcd"


EXPECTED = {"a": TensorSpec("uint8", (4,)), "b": TensorSpec("float32", (2, 2))}


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"a": np.zeros(4, np.int8)}, r"'a' is int8\[4\], expected uint8\[4\]"),
        ({"a": np.zeros((2, 2), np.uint8)}, r"'a' is uint8\[2, 2\], expected uint8\[4\]"),
        ({"a": np.zeros(5, np.uint8)}, r"'a' is uint8\[5\]"),
        ({"c": np.zeros(4, np.uint8)}, "unknown tensor 'c'; known are a, b"),
        ({"a": np.zeros(4, np.uint8)}, "tensors are missing: b"),
        ({}, "tensors are missing: a, b"),
    ],
)
def test_other_tensors_than_expected_are_refused(sent, message):
    with pytest.raises(BadInput, match=message):
        assemble(tensor_chunks(sent), EXPECTED)


@quick
@given(st.binary(min_size=4, max_size=40), st.integers(1, 7), st.data())
def test_a_tensor_whose_chunks_were_dropped_doubled_or_swapped_is_refused(raw, chunk_bytes, data):
    assume(len(raw) > chunk_bytes)
    chunks = list(tensor_chunks({"a": np.frombuffer(raw, np.uint8)}, chunk_bytes))
    i = data.draw(st.integers(0, len(chunks) - 1))
    match data.draw(st.sampled_from(["drop", "double", "swap"])):
        case "drop":
            del chunks[i]
        case "double":
            chunks.insert(data.draw(st.integers(0, len(chunks))), chunks[i])
        case _:
            j = data.draw(st.integers(0, len(chunks) - 1).filter(lambda j: j != i))
            chunks[i], chunks[j] = chunks[j], chunks[i]
    with pytest.raises(BadInput):
        assemble(chunks)


def test_into_arrays_are_filled_in_place_and_the_others_made():
    sent = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "s": np.array(7.5), "b": np.arange(3)}
    into = {"a": np.zeros((2, 3), np.float32), "s": np.array(0.0)}
    got = assemble(tensor_chunks(sent, 5), into=into)
    assert got["a"] is into["a"]
    assert got["s"] is into["s"]
    assert_same(got, sent)


@pytest.mark.parametrize("target", [np.zeros(4, np.float32), np.zeros((2, 1), np.int64), np.zeros(3, np.int64)])
def test_an_into_array_of_another_spec_is_refused(target):
    with pytest.raises(BadInput):
        assemble(tensor_chunks({"a": np.array([5, 6], np.int64)}), into={"a": target})


def test_an_into_array_that_is_not_contiguous_is_filled_or_refused():
    target = np.zeros((2, 3), np.float32).T
    sent = np.arange(6, dtype=np.float32).reshape(3, 2)
    try:
        assemble(tensor_chunks({"a": sent}), into={"a": target})
    except FLError:
        return
    np.testing.assert_array_equal(target, sent)


def test_a_spec_says_dtype_shape_and_bytes():
    spec = TensorSpec.of(np.zeros((3, 5), np.float64))
    assert (str(spec), spec.nbytes) == ("float64[3, 5]", 120)
    assert TensorSpec("float32", ()).nbytes == 4


def test_a_declared_shape_takes_no_memory_until_its_bytes_come():
    assembler = TensorAssembler()
    assembler.add(tensor_pb2.TensorChunk(name="w", dtype="float32", shape=[1 << 33], data=bytes(8)))
    assert len(assembler._raw) == 8
    with pytest.raises(BadInput, match="the stream ended at byte 8 of 34359738368"):
        assembler.finish()


def test_tensors_of_one_stream_are_bounded(monkeypatch):
    monkeypatch.setattr("protos.codec.MAX_TENSORS", 3)
    assembler = TensorAssembler()
    for name in "abc":
        assembler.add(tensor_pb2.TensorChunk(name=name, dtype="int8", shape=[0]))
    with pytest.raises(TooLarge, match="'d': more than 3 tensors in one stream"):
        assembler.add(tensor_pb2.TensorChunk(name="d", dtype="int8", shape=[0]))
