"""Named arrays in memory that a simulator and its shards share.

The memory is an unnamed file (memfd): it has no name to leave behind, and the last
process to go frees it, however it goes.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Mapping

import numpy as np

from protos.codec import Array, Tensors, TensorSpec

_ALIGN = 64


def unnamed_file(purpose: str) -> int:
    """A file descriptor of an empty file without a name, kept in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(purpose)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class SharedArrays:
    """Arrays laid out one after the other in a shared file.

    Args:
        fd: of an `unnamed_file`, not closed here.
        specs: names, dtypes and shapes; the same in every process.
        create: whether this process gives the file its size.
    """

    def __init__(self, fd: int, specs: Mapping[str, TensorSpec], *, create: bool = False) -> None:
        offsets, size = {}, 0
        for name, spec in specs.items():
            offsets[name] = size
            size += -(-spec.nbytes // _ALIGN) * _ALIGN
        size = max(size, _ALIGN)
        if create:
            os.ftruncate(fd, size)
        self._map = mmap.mmap(fd, size)
        self.arrays: Tensors = {name: _view(self._map, spec, offsets[name]) for name, spec in specs.items()}

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]


def _view(memory: mmap.mmap, spec: TensorSpec, offset: int) -> Array:
    count = spec.nbytes // np.dtype(spec.dtype).itemsize
    if count == 0:
        return np.empty(spec.shape, spec.dtype)
    return np.frombuffer(memory, np.dtype(spec.dtype), count, offset).reshape(spec.shape)
