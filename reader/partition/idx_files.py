"""IDX files, as MNIST, Fashion-MNIST and EMNIST come: a header with type and sizes, then the numbers."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from reader.partition.packed import opened, read_lines
from reader.partition.plain_set import Array, PlainSet
from reader.reader_base import DataError

# The third byte of an IDX file: how its numbers are stored.
_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_AXES = 8
_PIECE = 1 << 20
_IMAGES = "images?idx3-ubyte*"
_LABELS = "labels?idx1-ubyte*"


def read_idx(path: Path) -> Array:
    """The array of an IDX file, plain or .gz.

    Raises:
        DataError: it cannot be read, is no IDX file, or is shorter or longer than its header says.
    """
    try:
        with opened(path) as file:
            start = file.read(4)
            if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _TYPES or not 1 <= start[3] <= _AXES:
                raise DataError(f"{path}: not an IDX file: it begins with {start.hex(' ') or 'nothing'}")
            kind, sizes = np.dtype(_TYPES[start[2]]), file.read(4 * start[3])
            shape = tuple(int(size) for size in np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4"))
            wanted = math.prod(shape) * kind.itemsize
            content = _up_to(file, wanted + 1)  # to see whether there is more than the header says
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if len(sizes) < 4 * start[3] or len(content) < wanted:
        raise DataError(f"{path}: cut off: its header says {shape}, {wanted} bytes, but {len(content)} are there")
    if len(content) > wanted:
        raise DataError(f"{path}: its header says {shape}, {wanted} bytes, but there are more")
    return np.frombuffer(content, kind).reshape(shape).astype(kind.newbyteorder("="))


def _up_to(file: IO[bytes], size: int) -> bytearray:
    """So many bytes, or all there are; memory is taken for what is there, whatever a damaged header says."""
    content = bytearray()
    while len(content) < size and (piece := file.read(min(_PIECE, size - len(content)))):
        content += piece
    return content


def idx_images(folder: Path, part: str) -> Path | None:
    """The images of a part ("train", "t10k" or "test"), if a folder has them.

    Raises:
        DataError: there are several.
    """
    found = sorted(folder.glob(f"*{part}-{_IMAGES}"))
    if len(found) > 1:
        raise DataError(f"{folder}: {found[0].name} and {found[1].name}: leave one of them")
    return found[0] if found else None


def idx_set(images: Path, part: str) -> PlainSet:
    """The set of a file of images and the labels beside it.

    Text files that are named like it, `train-writers.txt`, are columns ("writers"): a line an example.

    Raises:
        DataError: a file is missing or damaged, or they do not match.
    """
    head = images.name.split(f"{part}-")[0] + f"{part}-"
    labels = sorted(images.parent.glob(f"{head}{_LABELS}"))
    if not labels:
        raise DataError(f"{images}: no labels beside it ({head}labels-idx1-ubyte)")
    x, y = read_idx(images), read_idx(labels[0])
    if x.ndim != 3 or x.dtype != np.uint8:
        raise DataError(f"{images}: {x.dtype} of shape {x.shape}, not images of bytes")
    if y.shape != (len(x),) or y.dtype.kind not in "iu":
        raise DataError(f"{labels[0]}: labels of shape {y.shape} ({y.dtype}), but {len(x)} images in {images}")
    columns = {}
    for path in sorted(images.parent.glob(f"{head}*.txt")):
        lines = read_lines(path)
        if len(lines) != len(x):
            raise DataError(f"{path}: {len(lines)} lines, but {len(x)} images in {images}")
        columns[path.stem.removeprefix(head)] = np.array(lines)
    return PlainSet(str(images), x[:, None], y.astype(np.int64), columns)
