"""Plain sets in one file: NPZ with x and y, and CSV with a column of labels."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from reader.npz_arrays import npz_arrays
from reader.partition.packed import read_lines
from reader.partition.plain_set import Array, Int64, PlainSet
from reader.reader_base import DataError


def npz_sets(path: Path, label: str) -> tuple[PlainSet, PlainSet | None]:
    """The set of an NPZ file, and its test set if the names end in _train and _test.

    Arrays of one axis beside x and y are columns.  Floats become float32; bytes stay.

    Args:
        path: of the file.
        label: the array with the labels, "y" if not said otherwise.

    Raises:
        DataError: it cannot be read, x or y is missing, or one of them cannot be what it should.
    """
    arrays = npz_arrays(path)
    if {"x_train", f"{label}_train"} <= arrays.keys():
        cut = {
            part: {name.removesuffix(part): each for name, each in arrays.items() if name.endswith(part)}
            for part in ("_train", "_test")
        }
        test = _of_arrays(path, cut["_test"], label) if cut["_test"] else None
        return _of_arrays(path, cut["_train"], label), test
    return _of_arrays(path, arrays, label), None


def _of_arrays(path: Path, arrays: Mapping[str, Array], label: str) -> PlainSet:
    missing = [name for name in ("x", label) if name not in arrays]
    if missing:
        raise DataError(f"{path}: no array {missing[0]!r}, only {', '.join(sorted(arrays)) or 'none'}")
    x, y = arrays["x"], arrays[label]
    if x.ndim < 2 or x.dtype.kind not in "uif":
        raise DataError(f"{path}: x is {x.dtype} of shape {x.shape}; numbers with an example a row were expected")
    if y.dtype.kind not in "iu" or y.shape not in ((len(x),), (len(x), 1)):
        raise DataError(f"{path}: {label} is {y.dtype} of shape {y.shape}; {len(x)} whole numbers were expected")
    kept = x if x.dtype == np.uint8 else x.astype(np.float32)
    columns = {name: each for name, each in arrays.items() if name not in ("x", label) and each.ndim == 1}
    return PlainSet(str(path), kept, y.reshape(-1).astype(np.int64), columns)


def csv_set(path: Path, label: str, columns: Sequence[str], train: PlainSet | None = None) -> PlainSet:
    """The set of a CSV file with a line of names, plain or .gz.

    Labels that are no whole numbers are numbered in the order of the alphabet.

    Args:
        path: of the file.
        label: the column with the labels.
        columns: what is neither label nor feature, such as who it is from.
        train: of a test file: the training file's set, whose labels it has.

    Raises:
        DataError: a column is missing, a line has more or fewer fields, or a feature is no number.
    """
    rows = list(csv.reader(read_lines(path)))
    head = [name.strip() for name in rows[0]] if rows else []
    if len(set(head)) != len(head):
        raise DataError(f"{path}: two columns have the same name; its first line must name them")
    for name in (label, *columns):
        if name not in head:
            raise DataError(f"{path}: no column {name!r}; its first line names {', '.join(head[:20]) or 'none'}")
    body = [row for row in rows[1:] if row]
    for number, row in enumerate(body):
        if len(row) != len(head):
            raise DataError(f"{path}: example {number} (from 0) has {len(row)} fields, not {len(head)}")
    features = [place for place, name in enumerate(head) if name != label and name not in columns]
    x = np.empty((len(body), len(features)), np.float32)
    for number, row in enumerate(body):
        try:
            x[number] = [float(row[place]) for place in features]
        except ValueError as error:
            bad = next(place for place in features if not _is_number(row[place]))
            raise DataError(
                f"{path}: example {number} (from 0): column {head[bad]!r} holds {row[bad]!r}, which is no number; "
                f"if it is no feature, name it in --columns"
            ) from error
    y, known = _numbered(path, [row[head.index(label)].strip() for row in body], train.names if train else None)
    kept = {name: np.array([row[head.index(name)] for row in body]) for name in columns}
    return PlainSet(str(path), x, y, kept, known)


def _numbered(path: Path, labels: Sequence[str], names: Sequence[str] | None) -> tuple[Int64, tuple[str, ...]]:
    """Labels as numbers, and what each is called; `names` of the training file, which has none if its are numbers."""
    if not names and all(label.isascii() and label.isdigit() and len(label) < 10 for label in labels):
        return np.array([int(label) for label in labels], np.int64), ()
    known = tuple(sorted(set(labels))) if names is None else tuple(names)
    number = {name: place for place, name in enumerate(known)}
    for row, label in enumerate(labels):
        if label not in number:
            raise DataError(f"{path}: example {row} (from 0) has label {label!r}, which is not in the training file")
    return np.array([number[label] for label in labels], np.int64), known


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
