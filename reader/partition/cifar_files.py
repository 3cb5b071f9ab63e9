"""CIFAR-10 and CIFAR-100, the binary version: records of a label (or two) and 3 x 32 x 32 bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reader.partition.packed import read_all, read_lines
from reader.partition.plain_set import PlainSet
from reader.reader_base import DataError

_SHAPE = (3, 32, 32)
_BYTES = 3 * 32 * 32
CIFAR10, CIFAR10_TEST = tuple(f"data_batch_{number}.bin" for number in range(1, 6)), ("test_batch.bin",)
CIFAR100, CIFAR100_TEST = ("train.bin",), ("test.bin",)
# What the Python version is called: pickles, which can run whatever they like.
PICKLES = ("data_batch_1", "train")
COARSE, FINE = "coarse", "fine"


def cifar10_set(folder: Path, names: Sequence[str]) -> PlainSet:
    """The records of files of CIFAR-10.

    Raises:
        DataError: a file is missing or damaged, or a label is not 0 to 9.
    """
    records = [_records(folder / name, (10,)) for name in names]
    rows = np.concatenate(records)
    return PlainSet(
        str(folder),
        rows[:, 1:].reshape(-1, *_SHAPE),
        rows[:, 0].astype(np.int64),
        names=_names(folder, "batches.meta.txt"),
    )


def cifar100_set(folder: Path, name: str, label: str) -> PlainSet:
    """The records of a file of CIFAR-100; the other kind of label is a column.

    Args:
        folder: with the file.
        name: of the file.
        label: "fine", of 100, or "coarse", of 20.

    Raises:
        DataError: the file is missing or damaged, a label is out of range, or there is no such kind of label.
    """
    if label not in (FINE, COARSE):
        raise DataError(f"{folder}: CIFAR-100 has labels {FINE!r} (100) and {COARSE!r} (20), none that are {label!r}")
    rows = _records(folder / name, (20, 100))
    labels = {COARSE: rows[:, 0].astype(np.int64), FINE: rows[:, 1].astype(np.int64)}
    y = labels.pop(label)
    return PlainSet(
        str(folder / name), rows[:, 2:].reshape(-1, *_SHAPE), y, labels, _names(folder, f"{label}_label_names.txt")
    )


def _records(path: Path, classes: Sequence[int]) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """The records of a file, uint8 (n, labels + 3072)."""
    content, length = read_all(path), len(classes) + _BYTES
    if not content or len(content) % length:
        raise DataError(f"{path}: {len(content)} bytes are no whole records of {length}: cut off, or another form")
    rows = np.frombuffer(content, np.uint8).reshape(-1, length)
    for place, limit in enumerate(classes):
        wrong = rows[:, place] >= limit
        if wrong.any():
            record = int(np.argmax(wrong))
            raise DataError(f"{path}: record {record} (from 0) has label {rows[record, place]}, not 0 to {limit - 1}")
    return rows


def _names(folder: Path, name: str) -> tuple[str, ...]:
    path = folder / name
    return tuple(line.strip() for line in read_lines(path) if line.strip()) if path.exists() else ()
