"""A plain set: examples with labels, before they are anybody's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from reader.reader_base import DataError

Int64 = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class PlainSet:
    """Examples in the order of their files.

    Attributes:
        where: the file or folder, for messages.
        x: uint8 or float32 (n, ...); images have channels first.
        y: the label of each, int64 (n,), from 0.
        columns: what else is said of each example, name -> (n,): who wrote it, say.
        names: what each label is called, if the files say it.
    """

    where: str
    x: Array
    y: Int64
    columns: Mapping[str, Array] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Source:
    """What was given: a set to train on, its own test set if it has one, and how many labels there are."""

    train: PlainSet
    test: PlainSet | None
    classes: int


def checked_source(train: PlainSet, test: PlainSet | None, classes: int | None) -> Source:
    """A source whose parts fit each other.

    Args:
        train: to train on.
        test: its own test set.
        classes: how many labels there are; None: as many as occur in `train`, which are 0, 1, 2 and so on.

    Raises:
        DataError: there are no examples; lengths or shapes differ; a number is not finite; a label is out of range.
    """
    occur = len(np.unique(train.y))
    labels = occur if classes is None else classes
    for part in (train, test):
        if part is None:
            continue
        if not len(part):
            raise DataError(f"{part.where}: no examples")
        for name, values in {"x": part.x, **part.columns}.items():
            if len(values) != len(part):
                raise DataError(f"{part.where}: {len(part)} labels, but {len(values)} in {name}")
        if part.x.shape[1:] != train.x.shape[1:] or part.x.dtype != train.x.dtype:
            raise DataError(
                f"{part.where}: x is {part.x.dtype} {part.x.shape[1:]}, "
                f"but in {train.where} it is {train.x.dtype} {train.x.shape[1:]}"
            )
        if part.x.dtype.kind == "f" and not np.isfinite(part.x).all():
            row = int(np.argmin(np.isfinite(part.x).reshape(len(part), -1).all(axis=1)))
            raise DataError(f"{part.where}: example {row} (from 0) holds a number that is not finite")
        wrong = (part.y < 0) | (part.y >= labels)
        if wrong.any():
            row = int(np.argmax(wrong))
            say = "labels begin at 0 and leave none out; if it is right, say how many there are with --classes"
            if classes is not None:
                say = f"--classes {classes} allows 0 to {classes - 1}"
            raise DataError(
                f"{part.where}: example {row} (from 0) has label {part.y[row]}, "
                f"but {occur} labels occur in {train.where}: {say}"
            )
    return Source(train, test, labels)


def pooled(source: Source) -> Source:
    """Both parts as one, to be dealt out together.

    Raises:
        DataError: there is no test set.
    """
    train, test = source.train, source.test
    if test is None:
        raise DataError(f"{train.where} has no test set of its own that could be pooled with the rest")
    columns = {
        name: np.concatenate([values, test.columns[name]])
        for name, values in train.columns.items()
        if name in test.columns
    }
    x, y = np.concatenate([train.x, test.x]), np.concatenate([train.y, test.y])
    return Source(replace(train, x=x, y=y, columns=columns), None, source.classes)
