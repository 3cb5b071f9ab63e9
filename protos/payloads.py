"""One user's tensors as they are stored and as they travel: small ones in one message, large ones in pieces.

A payload is a serialised `TensorBundle`.  Each of its chunks is a record of its own
there (a tag, a length, the chunk), so a payload of any size can be written and read
chunk by chunk, though protobuf itself parses no more than 2 GiB at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from protos.codec import CHUNK_BYTES, Array, TensorAssembler, Tensors, assemble, from_bundle, tensor_chunks, to_bundle
from protos.errors import BadInput
from protos.stubs import tensor_pb2

# A payload up to this goes in one message; a larger one in pieces of about this.
PIECE_BYTES = 8 << 20
# Of field 1 of a bundle, with its bytes' length after it.
_TAG = 0x0A


def pack(tensors: Mapping[str, Array]) -> bytes:
    """A user's tensors as a payload, of any size.

    Raises:
        BadInput: a dtype that is not carried.
    """
    if sum(array.nbytes for array in tensors.values()) <= PIECE_BYTES:
        return to_bundle(tensors).SerializeToString()
    return b"".join(part for chunk in tensor_chunks(tensors, CHUNK_BYTES) for part in _record(chunk))


def unpack(payload: bytes) -> Tensors:
    """The tensors of a payload.

    Raises:
        BadInput: it is none.
    """
    if len(payload) > PIECE_BYTES:
        return assemble(_chunks(payload))
    return from_bundle(tensor_pb2.TensorBundle.FromString(payload))


def pieces(payload: bytes) -> Iterator[tensor_pb2.TensorBundle]:
    """A payload as the bundles that carry it; all but the last have `more` set.

    Raises:
        BadInput: it is none.
    """
    if len(payload) <= PIECE_BYTES:
        yield tensor_pb2.TensorBundle.FromString(payload)
        return
    held: list[tensor_pb2.TensorChunk] = []
    size = 0
    for chunk in _chunks(payload):
        # A payload of many small tensors is cut by what they take with their names.
        if held and size + chunk.ByteSize() > PIECE_BYTES:
            yield tensor_pb2.TensorBundle(tensors=held, more=True)
            held, size = [], 0
        held.append(chunk)
        size += chunk.ByteSize()
    yield tensor_pb2.TensorBundle(tensors=held)


def join_bundles(bundles: Iterable[tensor_pb2.TensorBundle]) -> Iterator[Tensors]:
    """The tensors of payloads that came as `pieces`, one payload after another.

    Raises:
        BadInput: pieces that do not fit each other, or the stream ends before the last.
        TooLarge: beyond the bounds of `TensorAssembler`.
    """
    later = iter(bundles)
    for first in later:
        yield _gather(first, later)


def join_users(
    messages: Iterable[Any], part: str, begin: Callable[[Any], object]
) -> Iterator[tuple[Any, Tensors, bytes]]:
    """Puts users together from a stream of messages with a `key` and a bundle.

    Args:
        messages: of one user after another; those that go on with a user have no key.
        part: the bundle's field.
        begin: told each user's first message before anything of it is kept; raises if it cannot be.

    Returns:
        Of each user the first message, its tensors and its payload.

    Raises:
        BadInput, TooLarge: as `join_bundles`.
    """
    later = iter(messages)
    for first in later:
        begin(first)
        bundle = getattr(first, part)
        tensors = _gather(bundle, _of_one_user(first.key.uid, later, part))
        # Bytes that came whole are stored as they are: most users are small.
        whole = not bundle.more and bundle.ByteSize() <= PIECE_BYTES
        yield first, tensors, bundle.SerializeToString() if whole else pack(tensors)


def _of_one_user(uid: str, later: Iterator[Any], part: str) -> Iterator[tensor_pb2.TensorBundle]:
    for message in later:
        if message.HasField("key"):
            raise BadInput(f"uid {uid!r}: uid {message.key.uid[:40]!r} came before its last piece")
        yield getattr(message, part)


def _gather(bundle: tensor_pb2.TensorBundle, later: Iterator[tensor_pb2.TensorBundle]) -> Tensors:
    """One payload's tensors, from its first bundle and those after it."""
    assembler = TensorAssembler()
    while True:
        if bundle.more and not bundle.tensors:
            raise BadInput("an empty piece of a user's tensors")
        for chunk in bundle.tensors:
            assembler.add(chunk)
        if not bundle.more:
            return assembler.finish()
        following = next(later, None)
        if following is None:
            raise BadInput("the stream ended before the last piece of a user's tensors")
        bundle = following


def _chunks(payload: bytes) -> Iterator[tensor_pb2.TensorChunk]:
    """The chunks of a payload one after another, none larger than those of a stream."""
    view, at = memoryview(payload), 0
    while at < len(view):
        if view[at] != _TAG:
            raise BadInput(f"a payload of {len(view)} bytes is damaged at byte {at}")
        size, at = _varint(view, at + 1)
        if at + size > len(view):
            raise BadInput(f"a payload of {len(view)} bytes ends within a tensor")
        try:
            chunk = tensor_pb2.TensorChunk.FromString(bytes(view[at : at + size]))
        except DecodeError as error:
            raise BadInput(f"a payload of {len(view)} bytes is damaged at byte {at}") from error
        yield from _cut(chunk)
        at += size


def _cut(chunk: tensor_pb2.TensorChunk) -> Iterator[tensor_pb2.TensorChunk]:
    """A chunk as it is, or as several if it is large: as in checkpoints that hold whole tensors."""
    if len(chunk.data) <= CHUNK_BYTES:
        yield chunk
        return
    data = memoryview(chunk.data)
    parts: dict[str, Any] = {"dtype": chunk.dtype, "shape": chunk.shape}
    for start in range(0, len(data), CHUNK_BYTES):
        piece = bytes(data[start : start + CHUNK_BYTES])
        yield tensor_pb2.TensorChunk(name=chunk.name, offset=chunk.offset + start, data=piece, **parts)
        parts = {}


def _record(chunk: tensor_pb2.TensorChunk) -> tuple[bytes, bytes]:
    """A chunk as it stands in a payload."""
    body = chunk.SerializeToString()
    head, size = bytearray([_TAG]), len(body)
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head), body


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """A length as protobuf writes it, and the place after it."""
    value = shift = 0
    while at < len(view) and shift < 64:
        byte = view[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise BadInput(f"a payload of {len(view)} bytes is damaged at byte {at}")
