"""The users of one simulator: examples and private parameters, in LMDB on local disk.

All processes of the machine read it directly, so memory does not grow with the
number of users and nothing is copied to a shard that does not train it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import lmdb

from protos.errors import FLError, TooLarge, WrongState
from simulator.machine.address_space import RAISE_LIMIT, address_space, gib, limit_hint

# Address space of the store; the file itself grows with what is stored.
MAP_BYTES = 1 << 38
# LMDB holds no larger value.
MAX_VALUE = (1 << 32) - 1
# Of a value of private parameters, what is no parameter: the longest uid and its length.
_HEADS = 1 << 13
_EXAMPLES, _PRIVATE, _KNOWN = b"x", b"p", b"u"
_ORDER = struct.Struct(">II")
_STEP, _LENGTH = struct.Struct(">Q"), struct.Struct("<I")
# Bytes of a uid's digest; a round that no run has.
_DIGEST, _NEVER = 16, 1 << 62


@dataclass(frozen=True)
class UserRecord:
    """One user's examples of one file, encoded.

    Attributes:
        uid: the user.
        date: the day.
        split: "train" or "test".
        order: (number of the file, place within it); records are joined in this order.
        payload: a serialised TensorBundle.
    """

    uid: str
    date: str
    split: str
    order: tuple[int, int]
    payload: bytes


class UserStore:
    """One simulator's users; may be opened by many processes at once.

    Args:
        folder: an existing folder on a local file system.

    Raises:
        FLError: there is no room for it.
    """

    def __init__(self, folder: Path) -> None:
        # Nothing here outlives the run, so commits need not reach the disk.
        try:
            self._env = lmdb.open(
                str(folder), map_size=map_bytes(), sync=False, metasync=False, max_readers=1024, meminit=False,
                # A shard that starts while its simulator is killed must not make the folder anew.
                create=False,
            )  # fmt: skip
        except (lmdb.Error, OSError, MemoryError) as error:
            raise _refusal(folder, error) from error
        self._folder = folder
        # A process that was killed leaves its place among the readers taken, and what it read cannot be reused.
        self._env.reader_check()

    def close(self) -> None:
        """Closes the files."""
        self._env.close()

    # -- examples ----------------------------------------------------------------

    def put_examples(self, records: Iterable[UserRecord]) -> int:
        """Stores records in one transaction; returns how many.

        Raises:
            TooLarge: a record of 4 GiB or more.
        """
        count = 0
        with self._writing() as txn:
            for record in records:
                check_size(record.uid, record.payload)
                key = _examples_prefix(record.date, record.split) + _digest(record.uid) + _ORDER.pack(*record.order)
                txn.put(key, record.payload)
                txn.put(_KNOWN + _digest(record.uid), b"")
                count += 1
        return count

    def get_examples(self, uid: str, date: str, split: str) -> list[bytes]:
        """The payloads of one user's records, in order; empty if it has none."""
        prefix = _examples_prefix(date, split) + _digest(uid)
        with self._env.begin() as txn:
            return [bytes(value) for _, value in _scan(txn, prefix)]

    def clear_examples(self, date: str, split: str) -> int:
        """Forgets a day's examples; returns how many records there were."""
        prefix, count = _examples_prefix(date, split), 0
        with self._writing() as txn:
            cursor = txn.cursor()
            while cursor.set_range(prefix) and bytes(cursor.key()).startswith(prefix):
                cursor.delete()
                count += 1
        return count

    def knows(self, uid: str) -> bool:
        """Whether this store ever had examples of the user."""
        with self._env.begin() as txn:
            return txn.get(_KNOWN + _digest(uid)) is not None

    def has_examples(self) -> bool:
        """Whether any were ever stored."""
        with self._env.begin() as txn:
            return next(_scan(txn, _KNOWN), None) is not None

    # -- private parameters ---------------------------------------------------------

    def put_private(self, uid: str, step: int, payload: bytes) -> None:
        """Stores what a user keeps as trained in global round `step`.

        The version before it stays as it is: a round that is trained again, or another
        simulator that still is in this round, must see what the round began with.

        Raises:
            WrongState: those of a later round are there.
            TooLarge: 4 GiB or more.
        """
        with self._writing() as txn:
            newest = max((s for s, _ in _versions(txn, uid)), default=-1)
            if newest > step and txn.get(_private_key(uid, step)) is None:
                raise WrongState(
                    f"uid {uid!r}: private parameters of round {step} of the run came, those of round "
                    f"{newest} are there"
                )
            _put_version(txn, uid, step, payload)

    def get_private(self, uid: str, step: int) -> bytes | None:
        """What a user keeps as it was before global round `step`."""
        with self._env.begin() as txn:
            found = [value for s, value in _versions(txn, uid) if s < step]
            return _payload_of(found[-1]) if found else None

    def all_private(self) -> Iterator[tuple[str, int, bytes]]:
        """(uid, step, payload) of the newest version of every user, sorted by the uid's hash."""
        return self.private_between(0, _NEVER)

    def restore_private(self, records: Iterable[tuple[str, int, bytes]]) -> int:
        """Stores (uid, step, parameters) of a checkpoint in one transaction; the newest of a uid wins."""
        count = 0
        with self._writing() as txn:
            for uid, step, payload in records:
                _put_version(txn, uid, step, payload)
                count += 1
        return count

    def private_between(self, first: int, end: int) -> Iterator[tuple[str, int, bytes]]:
        """(uid, step, parameters) of every user as they were before global round `end`.

        Seen as the store is at this moment, however long it takes to go through.

        Args:
            first: only versions of this round or later; 0 for all.
            end: the round.
        """
        txn = self._env.begin()

        def records() -> Iterator[tuple[str, int, bytes]]:
            with txn:
                for _, each in groupby(_scan(txn, _PRIVATE), key=lambda item: item[0][: len(_PRIVATE) + _DIGEST]):
                    known = [(step, value) for key, value in each if (step := _step_of(key)) < end]
                    if known and known[-1][0] >= first:
                        step, value = known[-1]
                        yield _uid_of(value), step, _payload_of(value)

        return records()

    # -- inside ------------------------------------------------------------------------

    def _writing(self) -> _Writing:
        return _Writing(self._env, self._folder)


class _Writing:
    """A write transaction whose failures say what to do."""

    def __init__(self, env: lmdb.Environment, folder: Path) -> None:
        self._txn = env.begin(write=True)
        self._folder = folder

    def __enter__(self) -> lmdb.Transaction:
        return self._txn

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            try:
                self._txn.commit()
                return
            except lmdb.Error as failure:
                error = failure
        else:
            self._txn.abort()
        if isinstance(error, lmdb.Error):
            raise _refusal(self._folder, error) from error


def check_size(uid: str, payload: bytes) -> None:
    """Raises TooLarge if a user's examples of one file are more than one record holds."""
    if len(payload) > MAX_VALUE:
        raise TooLarge(
            f"uid {uid!r}: {len(payload) / 2**30:.2f} GiB of examples at once, more than {MAX_VALUE / 2**30:.0f} GiB: "
            "let the reader yield them in parts, the uid with each; they are joined in that order"
        )


def map_bytes() -> int:
    """The address space of a store: where that is limited, half of it, since a shard needs the other for Paddle."""
    limit = address_space()
    # Whole pages of any size that a system may have.
    return MAP_BYTES if limit is None else min(MAP_BYTES, limit // 2 >> 16 << 16)


def _refusal(folder: Path, error: Exception) -> FLError:
    what = f"the store of users in {folder}"
    if isinstance(error, lmdb.MapFullError):
        limit = address_space()
        if limit is None or limit // 2 > MAP_BYTES:
            return FLError(f"{what} is full: a simulator holds at most {gib(MAP_BYTES)}; use more simulators")
        return FLError(
            f"{what} is full: it may take {gib(map_bytes())}, half of the address space that this job is limited to "
            f"({gib(limit)}); {RAISE_LIMIT}, or use more simulators"
        )
    if (isinstance(error, MemoryError) or os.strerror(errno.ENOMEM) in str(error)) and address_space() is not None:
        return FLError(f"{what} cannot be mapped: {error}; {limit_hint()}")
    hint = "the disk is full" if _is_full(error) else str(error)
    return FLError(f"{what} cannot be written: {hint}; free space or point TMPDIR elsewhere")


def _is_full(error: Exception) -> bool:
    # LMDB says EIO where a write came back short.
    return any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EIO, errno.EDQUOT))


def _digest(uid: str) -> bytes:
    # LMDB bounds keys to 511 bytes; a digest is short whatever the uid.
    return hashlib.blake2b(uid.encode(), digest_size=_DIGEST).digest()


def _examples_prefix(date: str, split: str) -> bytes:
    return _EXAMPLES + f"{date}/{split}/".encode()


def _scan(txn: lmdb.Transaction, prefix: bytes) -> Iterator[tuple[bytes, Any]]:
    cursor = txn.cursor()
    found = cursor.set_range(prefix)
    while found and bytes(cursor.key()).startswith(prefix):
        yield bytes(cursor.key()), cursor.value()
        found = cursor.next()


def _private_key(uid: str, step: int) -> bytes:
    """A version's key: those of a user follow each other, the newest last."""
    return _PRIVATE + _digest(uid) + _STEP.pack(step)


def _step_of(key: bytes) -> int:
    step: int = _STEP.unpack(key[-_STEP.size :])[0]
    return step


def _versions(txn: lmdb.Transaction, uid: str) -> Iterator[tuple[int, Any]]:
    """(round of the run they were trained in, value) of what a user keeps, oldest first."""
    for key, value in _scan(txn, _PRIVATE + _digest(uid)):
        yield _step_of(key), value


def _put_version(txn: lmdb.Transaction, uid: str, step: int, payload: bytes) -> None:
    """Writes one and forgets all but the last two; a version that stays is not written again."""
    if len(payload) > MAX_VALUE - _HEADS:
        raise TooLarge(
            f"uid {uid!r}: it keeps {len(payload) / 2**30:.2f} GiB of private parameters, more than "
            f"{MAX_VALUE / 2**30:.0f} GiB: "
            "let fewer parameters be private"
        )
    name = uid.encode()
    txn.put(_private_key(uid, step), b"".join((_LENGTH.pack(len(name)), name, payload)))
    for old in [s for s, _ in _versions(txn, uid)][:-2]:
        txn.delete(_private_key(uid, old))


def _uid_of(value: Any) -> str:
    (length,) = _LENGTH.unpack_from(value)
    return bytes(value[_LENGTH.size : _LENGTH.size + length]).decode()


def _payload_of(value: Any) -> bytes:
    (length,) = _LENGTH.unpack_from(value)
    return bytes(value[_LENGTH.size + length :])
