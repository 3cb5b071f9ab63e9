"""Tensors on the wire: name, dtype, shape and raw bytes, in chunks.

Nothing is ever unpickled: bytes become an array only after dtype, shape and
size have been checked against each other and against what is expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.errors import BadInput, TooLarge
from protos.stubs import tensor_pb2

Array = npt.NDArray[Any]
Tensors = dict[str, Array]

CHUNK_BYTES = 1 << 21
MAX_NAME = 1024
MAX_RANK = 32
MAX_SIZE = 1 << 40
MAX_TENSORS = 1 << 16
MAX_STREAM_BYTES = 1 << 36
DTYPES = frozenset(
    ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]
)


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor must look like: NumPy's dtype name and the shape."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: Array) -> TensorSpec:
        """The spec of an array."""
        return cls(array.dtype.name, tuple(array.shape))

    @property
    def nbytes(self) -> int:
        """Bytes of such a tensor."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def specs(tensors: Mapping[str, Array]) -> dict[str, TensorSpec]:
    """The specs of several tensors, in their order."""
    return {name: TensorSpec.of(array) for name, array in tensors.items()}


def as_bytes(array: Array) -> npt.NDArray[np.uint8]:
    """An array's bytes in C order, little-endian: a flat view where they lie so already, else of a copy."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)


def tensor_chunks(tensors: Mapping[str, Array], chunk_bytes: int = CHUNK_BYTES) -> Iterator[tensor_pb2.TensorChunk]:
    """Cuts tensors into chunks of at most `chunk_bytes`, in the order of the mapping.

    Raises:
        BadInput: a dtype that is not carried (such as object).
    """
    for name, array in tensors.items():
        if array.dtype.name not in DTYPES:
            raise BadInput(f"tensor {name}: dtype {array.dtype} cannot be sent; use one of {sorted(DTYPES)}")
        raw = as_bytes(array)
        yield tensor_pb2.TensorChunk(
            name=name, dtype=array.dtype.name, shape=array.shape, offset=0, data=raw[:chunk_bytes].tobytes()
        )
        for start in range(chunk_bytes, raw.size, chunk_bytes):
            yield tensor_pb2.TensorChunk(name=name, offset=start, data=raw[start : start + chunk_bytes].tobytes())


class TensorAssembler:
    """Puts tensors together from their chunks, checking every one.

    Args:
        expected: if given, exactly these tensors must come, with these specs.
        into: arrays to write to, by name; the others are made here.
        max_bytes: bound of the sum of all tensors' bytes.

    A tensor that is not expected takes memory as its bytes come, not as its shape says:
    whoever declares a terabyte must send it.
    """

    def __init__(
        self,
        expected: Mapping[str, TensorSpec] | None = None,
        into: Mapping[str, Array] | None = None,
        max_bytes: int = MAX_STREAM_BYTES,
    ) -> None:
        self._expected = expected
        self._into = into or {}
        self._left = max_bytes
        self._tensors: Tensors = {}
        self._name: str | None = None
        # Where the bytes go: memory of the tensor's size, or what has come of one that nobody expects.
        self._raw: npt.NDArray[np.uint8] | bytearray = bytearray()
        self._spec = TensorSpec("uint8", (0,))
        self._size = self._next = 0

    def add(self, chunk: tensor_pb2.TensorChunk) -> None:
        """Takes the next chunk.

        Raises:
            BadInput: it does not fit what came before, its own shape, or what is expected.
            TooLarge: beyond the bounds.
        """
        begins = chunk.offset == 0 and self._complete()
        if begins:
            self._begin(chunk)
        if chunk.name != self._name or chunk.offset != self._next:
            raise BadInput(
                f"tensor {chunk.name[:MAX_NAME]!r}: chunk at byte {chunk.offset} is out of order "
                f"(expected byte {self._next} of {self._name!r})"
            )
        end = self._next + len(chunk.data)
        if end > self._size:
            raise BadInput(f"tensor {self._name!r}: {end} bytes or more came, its shape holds {self._size}")
        if not chunk.data and not (begins and self._size == 0):
            raise BadInput(f"tensor {self._name!r}: an empty chunk at byte {self._next} of {self._size}")
        if isinstance(self._raw, bytearray):
            self._raw += chunk.data
        else:
            self._raw[self._next : end] = np.frombuffer(chunk.data, np.uint8)
        self._next = end
        if isinstance(self._raw, bytearray) and self._raw and self._complete():
            whole = np.frombuffer(self._raw, np.dtype(self._spec.dtype))
            self._tensors[chunk.name] = whole.reshape(self._spec.shape)

    def finish(self) -> Tensors:
        """All tensors, once the last chunk is in.

        Raises:
            BadInput: the stream stopped within a tensor, or a tensor is missing.
        """
        if not self._complete():
            raise BadInput(f"tensor {self._name!r}: the stream ended at byte {self._next} of {self._size}")
        if self._expected is not None:
            missing = [name for name in self._expected if name not in self._tensors]
            if missing:
                raise BadInput(f"tensors are missing: {', '.join(missing[:5])}")
        return self._tensors

    def _complete(self) -> bool:
        return self._next == self._size

    def _begin(self, chunk: tensor_pb2.TensorChunk) -> None:
        name, spec = chunk.name, self._check(chunk)
        self._left -= spec.nbytes
        if self._left < 0:
            raise TooLarge(f"tensor {name!r}: {spec} goes beyond the bytes that may come in one stream")
        array = self._into.get(name)
        if array is None and self._expected is not None:
            array = np.empty(spec.shape, np.dtype(spec.dtype))
        elif array is not None and (TensorSpec.of(array) != spec or not array.flags.c_contiguous):
            raise BadInput(f"tensor {name!r} is {spec}; what it should go to is {TensorSpec.of(array)}")
        if array is None:
            self._raw = bytearray()
            # Holds the place of a tensor that is not empty until its last byte is in.
            self._tensors[name] = np.empty(spec.shape if spec.nbytes == 0 else 0, np.dtype(spec.dtype))
        else:
            self._tensors[name], self._raw = array, array.reshape(-1).view(np.uint8)
        self._name, self._spec, self._size, self._next = name, spec, spec.nbytes, 0

    def _check(self, chunk: tensor_pb2.TensorChunk) -> TensorSpec:
        if not 0 < len(chunk.name) <= MAX_NAME:
            raise TooLarge(f"a tensor's name has {len(chunk.name)} characters; 1 to {MAX_NAME} are allowed")
        if chunk.dtype not in DTYPES:
            raise BadInput(f"tensor {chunk.name!r}: unknown dtype {chunk.dtype[:40]!r}; use one of {sorted(DTYPES)}")
        if len(chunk.shape) > MAX_RANK:
            raise TooLarge(f"tensor {chunk.name!r}: {len(chunk.shape)} dimensions; at most {MAX_RANK} are allowed")
        # NumPy multiplies the dimensions that are not 0 even where another one is.
        if prod(max(1, size) for size in chunk.shape) > MAX_SIZE:
            raise TooLarge(f"tensor {chunk.name!r}: shape {list(chunk.shape)} has more than {MAX_SIZE} elements")
        if chunk.name in self._tensors:
            raise BadInput(f"tensor {chunk.name!r} came twice")
        if len(self._tensors) >= MAX_TENSORS:
            raise TooLarge(f"tensor {chunk.name!r}: more than {MAX_TENSORS} tensors in one stream")
        spec = TensorSpec(chunk.dtype, tuple(chunk.shape))
        if self._expected is not None:
            wanted = self._expected.get(chunk.name)
            if wanted is None:
                raise BadInput(f"unknown tensor {chunk.name!r}; known are {', '.join(list(self._expected)[:20])}")
            if wanted != spec:
                raise BadInput(f"tensor {chunk.name!r} is {spec}, expected {wanted}")
        return spec


def assemble(
    chunks: Iterable[tensor_pb2.TensorChunk],
    expected: Mapping[str, TensorSpec] | None = None,
    into: Mapping[str, Array] | None = None,
) -> Tensors:
    """Puts tensors together from a whole stream of chunks; see `TensorAssembler`."""
    assembler = TensorAssembler(expected, into)
    for chunk in chunks:
        assembler.add(chunk)
    return assembler.finish()


def to_bundle(tensors: Mapping[str, Array]) -> tensor_pb2.TensorBundle:
    """Small tensors as one message; see `payloads` for those of any size."""
    return tensor_pb2.TensorBundle(tensors=tensor_chunks(tensors, chunk_bytes=1 << 62))


def from_bundle(bundle: tensor_pb2.TensorBundle) -> Tensors:
    """The tensors of one message; raises as `TensorAssembler` does."""
    whole = _whole_tensors(bundle)
    return assemble(bundle.tensors) if whole is None else whole


def _whole_tensors(bundle: tensor_pb2.TensorBundle) -> Tensors | None:
    """The tensors of a message in which each is one chunk, as `to_bundle` makes it; None if it is not plainly that.

    A shard reads one for every user that it trains, so it is worth a way of its own.
    """
    tensors: Tensors = {}
    for chunk in bundle.tensors:
        name, data, shape = chunk.name, chunk.data, tuple(chunk.shape)
        fits = data and not chunk.offset and 0 < len(name) <= MAX_NAME and len(shape) <= MAX_RANK
        if not fits or chunk.dtype not in DTYPES or name in tensors:
            return None
        dtype = np.dtype(chunk.dtype)
        if prod(shape) * dtype.itemsize != len(data):
            return None
        # A copy, which may be written to.
        tensors[name] = np.frombuffer(bytearray(data), dtype).reshape(shape)
    return tensors if len(tensors) <= MAX_TENSORS else None
