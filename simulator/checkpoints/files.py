"""Checkpoints on disk: whole or not at all, with a checksum, and only the last few kept.

    OUTPUT/checkpoints/step-00000120.ckpt             the scheduler's state after 120 rounds
    OUTPUT/checkpoints/step-00000120-rank1.private    private parameters of rank 1's users

Each file is MAGIC, a BLAKE2b digest of the rest, and the rest: an NPZ archive in the
first kind, records in the second.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from protos.errors import BadInput, FLError
from scheduler.state.checkpoints import Marks, Offer, Segment, Snapshot
from simulator.npz import write_arrays

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
KEPT = 3
VERSION = 2
_MAGIC = b"FLSIMCKP"
_DIGEST = 32
_HEAD = len(_MAGIC) + _DIGEST
_NAME = re.compile(r"step-(\d{8,})\.ckpt")
_RECORD = struct.Struct("<IQQ")  # bytes of the uid, step, bytes of the parameters
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint.

    Attributes:
        snapshot: the scheduler's state.
        marks: how far the record went.
        meaning: the settings that the run's results depend on.
        segments: files of private parameters; later ones win.
        callbacks: what the callbacks remembered then, by name.
    """

    snapshot: Snapshot
    marks: Marks
    meaning: dict[str, Any]
    segments: tuple[Segment, ...]
    callbacks: dict[str, Any] = field(default_factory=dict)

    @property
    def offer(self) -> Offer:
        """What a simulator needs to know of it."""
        return Offer(self.snapshot.step, self.snapshot.date, self.segments)


class CheckpointFolder:
    """The checkpoints of one run, on the scheduler's side.

    Args:
        folder: made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, checkpoint: Checkpoint) -> None:
        """Writes one and removes those beyond the last few.

        Raises:
            FLError: it cannot be written.
        """
        snapshot = checkpoint.snapshot
        head = {
            "version": VERSION,
            "step": snapshot.step,
            "date": snapshot.date,
            "private": snapshot.private,
            "frozen": snapshot.frozen,
            "tests": snapshot.tests,
            "marks": checkpoint.marks,
            "meaning": checkpoint.meaning,
            "callbacks": checkpoint.callbacks,
            "segments": [[s.name, s.size, s.digest.hex()] for s in checkpoint.segments],
        }
        arrays: dict[str, Any] = {f"param/{name}": value for name, value in snapshot.params.items()}
        arrays |= {f"optimizer/{name}": value for name, value in snapshot.optimizer.items()}
        arrays["head"] = np.frombuffer(json.dumps(head).encode(), np.uint8)

        def body(file: BinaryIO) -> None:
            write_arrays(file, arrays)

        write_sealed(self._path(snapshot.step), body)
        for path in self._paths()[KEPT:]:
            path.unlink(missing_ok=True)

    def read_all(self) -> list[Checkpoint]:
        """All that are whole, newest first; says which are not."""
        found = []
        for path in self._paths():
            try:
                found.append(_read(path))
            except FLError as error:
                logger.warning("%s; it is left out", error)
        return found

    def has(self, step: int) -> bool:
        """Whether the checkpoint after so many rounds is there."""
        return self._path(step).is_file()

    def forget_after(self, step: int) -> None:
        """Removes the checkpoints of rounds after `step`: the run goes on from there."""
        for path in self._paths():
            if _step_of(path) > step:
                path.unlink(missing_ok=True)

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}.ckpt"

    def _paths(self) -> list[Path]:
        """Newest first."""
        if not self._folder.is_dir():
            return []
        return sorted((p for p in self._folder.iterdir() if _NAME.fullmatch(p.name)), key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _read(path: Path) -> Checkpoint:
    with open_sealed(path) as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            head = json.loads(arrays.pop("head").tobytes())
            if head["version"] != VERSION:
                raise BadInput(f"checkpoint {path} has version {head['version']}, this program reads {VERSION}")
            parts: dict[str, dict[str, Any]] = {"param": {}, "optimizer": {}}
            for name, value in arrays.items():
                kind, _, rest = name.partition("/")
                parts[kind][rest] = value
            private, tests = tuple(head["private"]), bool(head.get("tests"))
            # Older checkpoints know of no frozen parameters.
            frozen = head.get("frozen", "")
            snapshot = Snapshot(head["step"], head["date"], parts["param"], parts["optimizer"], private, tests, frozen)
            segments = tuple(Segment(name, size, bytes.fromhex(digest)) for name, size, digest in head["segments"])
            # Older checkpoints know of no callbacks.
            return Checkpoint(snapshot, head["marks"], head["meaning"], segments, dict(head.get("callbacks", {})))
        except (KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise BadInput(f"checkpoint {path} cannot be read: {error}") from error


# -- private parameters -----------------------------------------------------------


def write_segment(path: Path, records: Iterable[tuple[str, int, bytes]]) -> Segment:
    """Writes (uid, step, parameters) records.

    Raises:
        FLError: the file cannot be written.
    """

    def body(file: BinaryIO) -> None:
        for uid, step, payload in records:
            name = uid.encode()
            file.write(_RECORD.pack(len(name), step, len(payload)))
            file.write(name)
            file.write(payload)

    size, digest = write_sealed(path, body)
    return Segment(path.name, size, digest)


def has_segment(folder: Path, segment: Segment) -> bool:
    """Whether the file is there, whole and the very one; says so if it is damaged."""
    path = folder / segment.name
    try:
        with open_sealed(path) as file:
            file.seek(len(_MAGIC))
            if path.stat().st_size == segment.size and file.read(_DIGEST) == segment.digest:
                return True
        logger.warning("%s is of another run", path)
    except BadInput as error:
        logger.warning("%s", error)
    except FLError:
        pass  # on another host, or lost: who needs it says so
    return False


def read_segment(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """The records of a file.

    Raises:
        FLError: it cannot be read or is damaged.
    """
    with open_sealed(path) as file:
        while head := file.read(_RECORD.size):
            length, step, size = _RECORD.unpack(head)
            yield file.read(length).decode(), step, file.read(size)


def choose(offers: Sequence[Offer], seen: Mapping[int, set[str]], folder: Path) -> tuple[Offer, dict[str, int]]:
    """The newest checkpoint all of whose parts somebody has, and who reads which file.

    Args:
        offers: newest first.
        seen: the names of the whole files each simulator sees, by rank.
        folder: for the error.

    Raises:
        BadInput: there is none.
    """
    for offer in offers:
        readers = {
            segment.name: min((rank for rank, names in seen.items() if segment.name in names), default=-1)
            for segment in offer.segments
        }
        missing = sorted(name for name, rank in readers.items() if rank < 0)
        if not missing:
            return offer, readers
        logger.warning(
            "the checkpoint after %d rounds is left out: %s is missing or damaged", offer.step, folder / missing[0]
        )
    raise BadInput(f"no whole checkpoint in {folder}: start the run again without --resume")


# -- files with a seal ------------------------------------------------------------------


def write_sealed(path: Path, body: Any) -> tuple[int, bytes]:
    """Writes a file whole or not at all, and to the disk itself; returns its size and digest.

    Args:
        path: of the file.
        body: writes the content to a binary file, from where that stands.

    Raises:
        FLError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb+") as file:
            file.write(_MAGIC + bytes(_DIGEST))
            body(file)
            digest = _digest_of(file)
            file.seek(len(_MAGIC))
            file.write(digest)
            file.flush()
            os.fsync(file.fileno())
            size = file.seek(0, os.SEEK_END)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        hint = "free space, or switch checkpoints off with --checkpoint-every 0"
        raise FLError(f"{path} cannot be written: {error.strerror}; {hint}") from error
    return size, digest


def open_sealed(path: Path) -> BinaryIO:
    """Opens a file and goes to its content.

    Raises:
        BadInput: it is damaged.
        FLError: it cannot be read.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise FLError(f"{path} cannot be read: {error.strerror}") from error
    head = file.read(_HEAD)
    if head[: len(_MAGIC)] != _MAGIC or head[len(_MAGIC) :] != _digest_of(file):
        file.close()
        raise BadInput(f"{path} is damaged")
    file.seek(_HEAD)
    return file


def sync_folder(folder: Path) -> None:
    """Makes names in a folder last through a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest_of(file: BinaryIO) -> bytes:
    file.flush()
    file.seek(_HEAD)
    digest = hashlib.blake2b(digest_size=_DIGEST)
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.digest()
