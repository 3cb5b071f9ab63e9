"""Prepared examples kept from run to run: what a file's users were packed into, under a key of all they depend on.

An entry is one file, written under another name and renamed, so it is whole or not there; two runs that write the
same write the same bytes.  It is made of blocks of users, each with a digest of its key, its place and its content:
one that is damaged, cut off or called by another name is not used.  There is nothing in it that could run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from simulator.days import name_within

# Changes with what an entry, or a payload in it, is made of.
FORMAT = "1"
# Of a block: more users than this many bytes of payload begin another one.
BLOCK_BYTES = 8 << 20
ENTRY, PART = ".users", ".part"
# An entry that nobody has used for so long, and a part that nobody writes to any more, is removed.
UNUSED_SECONDS, ABANDONED_SECONDS = 30 * 86400.0, 86400.0
# A use within this of the last is not noted.
_NOTED_SECONDS = 3600.0
_DIGEST, _READ_BYTES = 16, 1 << 20
_NAME = re.compile(rf"[0-9a-f]{{{2 * _DIGEST}}}(?:-\w+)?(\{ENTRY}|\{PART})")
_BLOCK = struct.Struct("<QQ")  # users, bytes; no bytes: the end, with all users
_USER = struct.Struct("<IIQ")  # bytes of the uid, examples, bytes of the payload


class Damaged(Exception):
    """An entry that is not what was written."""


@dataclass(frozen=True)
class CacheUse:
    """How the files of a day and split are looked up.

    Attributes:
        folder: of the cache.
        key: of all that a file's users depend on but the file itself.
        data: the data folder; files are known by their path within it.
    """

    folder: Path
    key: str
    data: Path

    def key_of(self, path: Path) -> str:
        """The key of a file: of its name and its content as it is now.

        Raises:
            OSError: it cannot be read.
        """
        name = name_within(self.data, path)
        return digest_of([FORMAT, self.key, name, digest_of_file(path)])


@dataclass(frozen=True)
class CachedUser:
    """One user of an entry: `UserRecord` without where it belongs."""

    uid: str
    count: int
    payload: bytes


def digest_of(parts: Iterable[str]) -> str:
    """A digest of texts."""
    made = hashlib.blake2b(digest_size=_DIGEST)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        made.update(len(raw).to_bytes(8, "little"))
        made.update(raw)
    return made.hexdigest()


def digest_of_file(path: Path) -> str:
    """A digest of a file's content."""
    made = hashlib.blake2b(digest_size=_DIGEST)
    with path.open("rb", buffering=0) as file:
        while block := file.read(_READ_BYTES):
            made.update(block)
    return made.hexdigest()


def read_entry(folder: Path, key: str) -> Iterator[CachedUser] | None:
    """The users of an entry in their order; None if there is none.

    Raises:
        Damaged: while they are gone through; what came before is as it was written.
        OSError: it is there and cannot be read.
    """
    try:
        file = (folder / f"{key}{ENTRY}").open("rb", buffering=0)
    except FileNotFoundError:
        return None
    _note_use(file)
    return _users(file, key)


def write_entry(folder: Path, key: str) -> EntryWriter:
    """Begins an entry.

    Raises:
        OSError: there is no room for it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return EntryWriter(folder, key)


class EntryWriter:
    """An entry being written; it counts from `finish` on, and `drop` leaves nothing."""

    def __init__(self, folder: Path, key: str) -> None:
        self._key, self._target = key, folder / f"{key}{ENTRY}"
        # Readable by its owner alone: it holds what the users of the data have said.
        handle, name = tempfile.mkstemp(dir=folder, prefix=f"{key}-", suffix=PART)
        self._part, self._file = Path(name), os.fdopen(handle, "wb", buffering=0)
        self._held: list[bytes] = []
        self._users = self._size = self._total = self._block = 0

    def add(self, uid: str, count: int, payload: bytes) -> None:
        """Adds a user.

        Raises:
            OSError: such as a disk that is full.
        """
        name = uid.encode()
        self._held += (_USER.pack(len(name), count, len(payload)), name, payload)
        self._users += 1
        self._size += len(payload)
        if self._size >= BLOCK_BYTES:
            self._flush()

    def finish(self) -> None:
        """Has the entry count.

        Raises:
            OSError: as `add`.
        """
        if self._users:
            self._flush()
        self._write(self._total, b"")
        self._file.close()
        self._part.replace(self._target)

    def drop(self) -> None:
        """Leaves nothing of an entry that is not finished."""
        self._file.close()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)

    def _flush(self) -> None:
        self._write(self._users, b"".join(self._held))
        self._total += self._users
        self._held, self._users, self._size = [], 0, 0

    def _write(self, users: int, body: bytes) -> None:
        head = _BLOCK.pack(users, len(body))
        for part in (head + _seal(self._key, self._block, head, body), body):
            left = memoryview(part)
            while left:
                left = left[self._file.write(left) :]
        self._block += 1


def sweep(folder: Path) -> int:
    """Removes what nobody has used for long; returns how many files."""
    now, gone = time.time(), 0
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for each in found:
            # Somebody may keep other things there.
            named = _NAME.fullmatch(each.name)
            limit = 0.0 if named is None else {ENTRY: UNUSED_SECONDS, PART: ABANDONED_SECONDS}[named[1]]
            # Another run may be at the same.
            with contextlib.suppress(OSError):
                if named is not None and now - each.stat().st_mtime > limit:
                    Path(each.path).unlink()
                    gone += 1
    return gone


def _note_use(file: BinaryIO) -> None:
    # A folder may be read-only here.
    with contextlib.suppress(OSError):
        if time.time() - os.fstat(file.fileno()).st_mtime > _NOTED_SECONDS:
            os.utime(file.fileno())


def _seal(key: str, block: int, head: bytes, body: bytes) -> bytes:
    made = hashlib.blake2b(head, digest_size=_DIGEST, key=key.encode(), salt=block.to_bytes(8, "little"))
    made.update(body)
    return made.digest()


def _users(file: BinaryIO, key: str) -> Iterator[CachedUser]:
    with file:
        left, total, block = os.fstat(file.fileno()).st_size, 0, 0
        while True:
            head, seal = _take(file, _BLOCK.size, left), _take(file, _DIGEST, left)
            users, size = _BLOCK.unpack(head)
            body = _take(file, size, left)
            if _seal(key, block, head, body) != seal:
                raise Damaged(f"block {block} is not what was written")
            if not size:
                if users != total:
                    raise Damaged(f"it has {total} users of {users}")
                return
            yield from _cut(body, users)
            total, block = total + users, block + 1


def _cut(body: bytes, users: int) -> Iterator[CachedUser]:
    at = 0
    for _ in range(users):
        name, count, size = _USER.unpack_from(body, at)
        start = at + _USER.size + name
        at = start + size
        yield CachedUser(body[start - name : start].decode(), count, body[start:at])


def _take(file: BinaryIO, size: int, most: int) -> bytes:
    """So many bytes; a length that cannot be is not asked for."""
    if size > most:
        raise Damaged(f"{size} bytes in a file of {most}")
    parts: list[bytes] = []
    while size and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    if size:
        raise Damaged("it is cut off")
    return parts[0] if len(parts) == 1 else b"".join(parts)
