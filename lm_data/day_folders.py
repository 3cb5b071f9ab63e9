"""Writes the day folders of a data folder: files of LEAF's form, none under its final name before all are there."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from lm_data.data_error import DataError

TRAIN, TEST, VAL, VOCAB = "train_data.json", "test_data.json", "val_data.json", "vocab.json"

_log = logging.getLogger(__name__)


def places(out: Path, train_day: str, test_day: str) -> dict[str, Path]:
    """Returns where each file goes.

    Raises:
        DataError: A day is not a date, or the test day is not the later one (days are played in order).
    """
    for day in (train_day, test_day):
        try:
            valid = datetime.strptime(day, "%Y%m%d").strftime("%Y%m%d") == day
        except ValueError:
            valid = False
        if not valid:
            raise DataError(f"day {day!r} is not a date; write it as YYYYMMDD")
    if train_day >= test_day:
        raise DataError(f"test day {test_day} must come after train day {train_day}: days are played in order")
    return {
        TRAIN: out / train_day / TRAIN,
        TEST: out / test_day / TEST,
        VAL: out / test_day / VAL,
        VOCAB: out / VOCAB,
    }


def refuse_existing(targets: Mapping[str, Path]) -> None:
    """Raises DataError when one of the files is there already."""
    for path in targets.values():
        if path.exists():
            raise DataError(f"{path} exists; use --force to replace it")


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """Gives a temporary folder on OUT's own disk and removes it at the end, and OUT too if it was made for nothing."""
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".prepare-", dir=out) as folder:
            yield Path(folder)
    finally:
        if made and not any(out.iterdir()):
            out.rmdir()


def publish(stage: Path, targets: Mapping[str, Path]) -> None:
    """Moves finished files to their places and prints them; an earlier run's file without a successor is removed."""
    done = [name for name in targets if (stage / name).exists()]
    for name in done:  # first, so that what can fail fails before anything is moved
        targets[name].parent.mkdir(parents=True, exist_ok=True)
    for name, target in targets.items():
        if name in done:
            (stage / name).replace(target)
            print(target)
        else:
            target.unlink(missing_ok=True)


class LeafWriter:
    """Writes a file of LEAF's form one user at a time.

    Attributes:
        users: The uids written.
        num_samples: Comments of each of them.
        sequences: Sequences written.
    """

    def __init__(self, file: TextIO) -> None:
        self.users: list[str] = []
        self.num_samples: list[int] = []
        self.sequences = 0
        self._file = file

    def add(self, uid: str, entry: Mapping[str, Any]) -> None:
        """Appends a user; `entry` has x and y."""
        self._file.write(',\n"' if self.users else '{"user_data":{\n"')
        self._file.write(json.dumps(uid)[1:] + ":" + json.dumps(entry, separators=(",", ":")))
        self.users.append(uid)
        self.num_samples.append(len(entry["x"]))
        self.sequences += sum(len(comment) for comment in entry["x"])

    def close(self) -> None:
        """Writes the rest of the file; without it the file is not JSON."""
        tail = json.dumps({"users": self.users, "num_samples": self.num_samples}, separators=(",", ":"))
        self._file.write("\n}," + tail[1:] if self.users else '{"user_data":{},' + tail[1:])


@contextlib.contextmanager
def leaf_file(path: Path) -> Iterator[LeafWriter]:
    """Opens a LeafWriter and finishes the file if nothing was raised."""
    with path.open("w", encoding="ascii") as file:
        writer = LeafWriter(file)
        yield writer
        writer.close()
    _log.info("%s: %d users, %d sequences", path.name, len(writer.users), writer.sequences)
