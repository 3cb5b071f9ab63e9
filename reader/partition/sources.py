"""Finds out what kind of plain set a path holds, and reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reader.partition import cifar_files
from reader.partition.idx_files import idx_images, idx_set
from reader.partition.plain_set import PlainSet, Source, checked_source
from reader.partition.table_files import csv_set, npz_sets
from reader.reader_base import DataError

_WANTED = (
    "IDX files (train-images-idx3-ubyte and so on, .gz or not), CIFAR's binary version (data_batch_1.bin, or train.bin)"
    ", an NPZ file with x and y, or a CSV file"
)


def holds_plain_set(data: Path) -> bool:
    """Whether a folder has IDX files of images to train on."""
    return data.is_dir() and idx_images(data, "train") is not None


def read_source(data: Path, label: str = "", columns: Sequence[str] = (), classes: int | None = None) -> Source:
    """The plain set of a file, or of a folder with its files.

    Args:
        data: a folder of IDX or CIFAR files, or with train.npz or train.csv (test.npz, test.csv); or such a file.
        label: which labels: of a CSV the column, of an NPZ the array ("y"), of CIFAR-100 "fine" or "coarse".
        columns: of a CSV: what is neither label nor feature.
        classes: how many labels there are, if not all of them occur.

    Raises:
        DataError: nothing that is known is there, or it is damaged.
    """
    if not data.exists():
        raise DataError(f"{data} is not there; expected {_WANTED}")
    train, test = _folder(data, label, columns) if data.is_dir() else _file(data, None, label, columns)
    return checked_source(train, test, classes)


def _folder(data: Path, label: str, columns: Sequence[str]) -> tuple[PlainSet, PlainSet | None]:
    images = idx_images(data, "train")
    if images is not None:
        _no_choice(data, label, columns)
        for part in ("t10k", "test"):
            tests = idx_images(data, part)
            if tests is not None:
                return idx_set(images, "train"), idx_set(tests, part)
        return idx_set(images, "train"), None
    if (data / cifar_files.CIFAR10[0]).exists():
        _no_choice(data, label, columns)
        tests = data / cifar_files.CIFAR10_TEST[0]
        test = cifar_files.cifar10_set(data, cifar_files.CIFAR10_TEST) if tests.exists() else None
        return cifar_files.cifar10_set(data, cifar_files.CIFAR10), test
    if (data / cifar_files.CIFAR100[0]).exists():
        kind, tests = label or cifar_files.FINE, data / cifar_files.CIFAR100_TEST[0]
        test = cifar_files.cifar100_set(data, tests.name, kind) if tests.exists() else None
        return cifar_files.cifar100_set(data, cifar_files.CIFAR100[0], kind), test
    for name in cifar_files.PICKLES:
        if (data / name).is_file():
            raise DataError(
                f"{data / name}: CIFAR's Python version is pickles, which are never opened; "
                f"get its binary version (cifar-10-binary.tar.gz, cifar-100-binary.tar.gz)"
            )
    for name in ("train.npz", "train.csv", "train.csv.gz"):
        if (data / name).exists():
            tests = data / name.replace("train", "test")
            return _file(data / name, tests if tests.exists() else None, label, columns)
    raise DataError(f"{data}: nothing that is known is in it; expected {_WANTED}")


def _file(path: Path, tests: Path | None, label: str, columns: Sequence[str]) -> tuple[PlainSet, PlainSet | None]:
    if path.name.endswith((".csv", ".csv.gz")):
        if not label:
            raise DataError(f"{path}: say which column has the labels, with --label")
        train = csv_set(path, label, columns)
        return train, csv_set(tests, label, columns, train) if tests else None
    if path.suffix == ".npz":
        _no_choice(path, "", columns)
        train, test = npz_sets(path, label or "y")
        return train, npz_sets(tests, label or "y")[0] if tests else test
    raise DataError(f"{path}: not a kind of file that is known; expected {_WANTED}")


def _no_choice(data: Path, label: str, columns: Sequence[str]) -> None:
    """Raises DataError if what was asked for cannot be had from these files."""
    for setting, value in (("--label", label), ("--columns", ",".join(columns))):
        if value:
            raise DataError(f"{setting} {value!r}: {data} is no CSV file, and has one label an example")
