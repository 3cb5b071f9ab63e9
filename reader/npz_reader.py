"""Reads NPZ files of many users each, as `python -m reader.partition` writes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reader.npz_arrays import npz_arrays
from reader.reader_base import DataError, Examples, ReaderBase

_NAMES = ("uids", "counts", "x", "y", "shift", "factor")


class NpzReader(ReaderBase):
    """Users of NPZ files: their examples lie one after another in one array.

    A file has `uids`, text (users,), and `counts`, how many examples each has; `x` (n, ...), bytes or float32, and
    `y`, the label of each, whole numbers (n,); and `shift` and `factor`, numbers that fit each example of x.

    A user's examples are "x", float32 (n, ...): (x - shift) * factor, and "y", int64 (n,).

    Args:
        shape: that each example must have; () if any will do.
        classes: how many labels there are; None if any will do.
    """

    def __init__(self, shape: tuple[int, ...] = (), classes: int | None = None) -> None:
        self.shape, self.classes = shape, classes

    def files(self, day: Path, split: str) -> list[Path]:
        """As `ReaderBase.files`, NPZ only."""
        return [path for path in super().files(day, split) if path.suffix == ".npz"]

    def read(self, path: Path) -> Iterator[tuple[str, Examples]]:
        """Yields (uid, {"x", "y"}).

        Raises:
            DataError: the file cannot be read, or its arrays do not fit each other.
        """
        uids, counts, x, y, shift, factor = _checked(path)
        if self.shape and x.shape[1:] != self.shape:
            raise DataError(f"{path}: examples have the shape {x.shape[1:]}, but the model takes {self.shape}")
        if self.classes is not None and y.size and int(y.max()) >= self.classes:
            raise DataError(f"{path}: y holds the label {int(y.max())}, but the model has {self.classes} classes")
        ends = np.cumsum(counts)
        for uid, end, count in zip(uids, ends, counts, strict=True):
            mine = slice(int(end - count), int(end))
            made = x[mine].astype(np.float32)
            made -= shift
            made *= factor
            if not np.isfinite(made).all():
                raise DataError(f"{path}: uid {uid!r}: x holds a number that is not finite")
            yield uid, {"x": made, "y": y[mine].astype(np.int64)}


def _checked(path: Path) -> tuple[list[str], npt.NDArray[np.int64], Any, Any, Any, Any]:
    """The arrays of a file, which fit each other."""
    arrays = npz_arrays(path)
    missing = [name for name in _NAMES if name not in arrays]
    if missing:
        raise DataError(f"{path}: no array {missing[0]!r}; make it with python -m reader.partition")
    uids, counts, x, y = arrays["uids"], arrays["counts"], arrays["x"], arrays["y"]
    for name, kinds, axes in (("uids", "U", 1), ("counts", "iu", 1), ("y", "iu", 1)):
        array = arrays[name]
        if array.dtype.kind not in kinds or array.ndim != axes:
            raise DataError(f"{path}: {name} cannot be {array.dtype} of shape {array.shape}")
    if x.dtype not in (np.uint8, np.float32) or x.ndim < 2:
        raise DataError(f"{path}: x is {x.dtype} of shape {x.shape}; bytes or float32, an example a row, were wanted")
    if len(uids) != len(counts) or len(x) != len(y) or int(counts.sum()) != len(y):
        raise DataError(
            f"{path}: {len(uids)} uids, {len(counts)} counts that add up to {int(counts.sum())}, "
            f"{len(x)} examples in x and {len(y)} in y do not match"
        )
    names = uids.tolist()
    for uid, count in zip(names, counts.tolist(), strict=True):
        if count < 1:
            raise DataError(f"{path}: uid {uid!r} has {count} examples; remove the user")
    scale = []
    for name in ("shift", "factor"):
        array = arrays[name]
        if array.dtype.kind != "f" or array.shape not in ((), x.shape[1:]) or not np.isfinite(array).all():
            raise DataError(f"{path}: {name} of shape {array.shape} is not one finite number for each of {x.shape[1:]}")
        scale.append(array.astype(np.float32))
    if y.size and int(y.min()) < 0:
        raise DataError(f"{path}: y holds the label {int(y.min())}; labels begin at 0")
    return names, counts.astype(np.int64), x, y, scale[0], scale[1]
