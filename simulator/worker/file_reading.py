"""A shard's reading of a day's files: users in bulk to whoever owns them."""

from __future__ import annotations

import gc
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from protos.errors import BadInput, TooLarge
from protos.payloads import pack, unpack
from scheduler.state.read_users import ReadUsers
from simulator.contracts import Examples, Reader
from simulator.shards import jobs
from simulator.users.data_client import DataClient
from simulator.users.example_cache import CacheUse, Damaged, EntryWriter, read_entry, write_entry
from simulator.users.examples import check_examples, check_user, users_of
from simulator.users.store import UserRecord, check_size

logger = logging.getLogger(__name__)

BATCH_BYTES = 8 << 20
# What a reader prepares in less is prepared anew each time.
SLOW_SECONDS = 1.0

# A user's weight, from a piece of its examples.
Weigh = Callable[[str, Examples], float | None]


def prepare(reader: Reader, job: jobs.Prepare) -> str:
    """What the reader's `prepare` gives, as JSON; from the cache if that has it."""
    cache = job.cache
    if cache is None:
        return json.dumps(reader.prepare(job.data, job.files))
    try:
        kept = cache.read()
    except (OSError, Damaged) as error:
        logger.warning("--cache %s: what %s.prepare gave is made anew: %s", cache.folder, type(reader).__name__, error)
        kept = None
    if kept is not None:
        return kept
    before, began = cache.looks(), time.monotonic()
    made = json.dumps(reader.prepare(job.data, job.files))
    # What is quickly made need not be kept: looking at the files would take longer.
    if time.monotonic() - began > SLOW_SECONDS:
        try:
            cache.write(made, before)
        except OSError as error:
            logger.warning("--cache %s: what was prepared is not kept: %s", cache.folder, error.strerror or error)
    return made


def read_files(
    reader: Reader,
    client: DataClient,
    job: jobs.ReadFiles,
    turns: Iterable[int],
    at_file: Callable[[Path], None],
    weigh: Weigh | None,
) -> jobs.FilesRead:
    """Reads files and hands their users to the data servers that own them.

    Args:
        reader: the task's.
        client: to the data servers.
        job: the files.
        turns: which of them are this shard's, one after another.
        at_file: told of each file before it is opened.
        weigh: None if users are not weighed.

    Returns:
        What was read here.

    Raises:
        BadInput: a user's examples cannot be right; with the file and the uid.
    """
    done = jobs.FilesRead()
    cached = _Cached(job.cache, done)
    # Parsing makes millions of objects and no cycles: looking for some takes half of the time.
    gc.disable()
    try:
        for i in turns:
            number, path = job.files[i]
            at_file(path)
            file = _File(client, job, number, weigh)
            if cached.users(path, file):
                done.cached += 1
            else:
                # Users that came of a damaged entry are stored once more, each in its place.
                file = _File(client, job, number, weigh)
                _read(reader, path, job.split, file, cached)
            done.merge(file.finish())
    finally:
        gc.enable()
    return done


class _File:
    """The users of one file on their way to their owners."""

    def __init__(self, client: DataClient, job: jobs.ReadFiles, number: int, weigh: Weigh | None) -> None:
        self._client, self._job, self._number, self._weigh = client, job, number, weigh
        self._place = 0
        self._users = ReadUsers()
        self._batches: dict[int, list[UserRecord]] = {}
        self._sizes: dict[int, int] = {}

    def add(self, uid: str, count: int, payload: bytes, examples: Examples | None = None) -> None:
        """Adds a user; `examples` are those of the payload, if they are at hand."""
        weight = None
        if self._weigh is not None:
            weight = self._weigh(uid, unpack(payload) if examples is None else _as_fetched(examples, payload))
        self._users.add(uid, count, weight)
        record = UserRecord(uid, self._job.date, self._job.split, (self._number, self._place), payload)
        self._place += 1
        owner = self._client.owner(uid)
        self._batches.setdefault(owner, []).append(record)
        self._sizes[owner] = self._sizes.get(owner, 0) + len(payload)
        if self._sizes[owner] > BATCH_BYTES:
            self._client.send_data(owner, self._batches.pop(owner))
            self._sizes[owner] = 0

    def finish(self) -> ReadUsers:
        """Sends the rest."""
        for owner, records in self._batches.items():
            self._client.send_data(owner, records)
        return self._users


def _read(reader: Reader, path: Path, split: str, file: _File, cached: _Cached) -> None:
    with cached.writing() as keep:
        for item in _users(reader, path, split):
            try:
                uid, examples = check_user(type(reader).__name__, item)
                count = check_examples(uid, examples)
                payload = pack(examples)
                check_size(uid, payload)
            except (BadInput, TooLarge) as error:
                raise BadInput(f"{path}: {error}") from error
            file.add(uid, count, payload, examples)
            keep(uid, count, payload)


class _Cached:
    """Files' users in the cache, if there is one; what goes wrong with it is told, and the files are read.

    Args:
        use: how they are looked up; None without a cache.
        done: where trouble is told.
    """

    def __init__(self, use: CacheUse | None, done: jobs.FilesRead) -> None:
        self._use, self._done = use, done
        # Where one entry could not be written, the next is not tried.
        self._writes = use is not None
        # Of the file that is looked at.
        self._path, self._key = Path(), ""

    def users(self, path: Path, file: _File) -> bool:
        """Hands a file's users over; whether all were there."""
        self._path, self._key = path, ""
        if self._use is None:
            return False
        try:
            self._key = self._use.key_of(path)
        except OSError:
            return False  # the reader says what is wrong with the file
        try:
            users = read_entry(self._use.folder, self._key)
            for each in users or ():
                file.add(each.uid, each.count, each.payload)
        except (OSError, Damaged) as error:
            self._trouble(f"what came of {self._path} is read anew: {error}")
            return False
        return users is not None

    @contextmanager
    def writing(self) -> Iterator[Callable[[str, int, bytes], None]]:
        """While the file is read, takes its users."""
        writer = self._begin()

        def keep(uid: str, count: int, payload: bytes) -> None:
            nonlocal writer
            if writer is not None:
                try:
                    writer.add(uid, count, payload)
                except OSError as error:
                    self._give_up(writer, error)
                    writer = None

        try:
            yield keep
            if writer is not None:
                self._finish(writer)
        finally:
            if writer is not None:
                writer.drop()

    def _begin(self) -> EntryWriter | None:
        if self._use is None or not self._key or not self._writes:
            return None
        try:
            return write_entry(self._use.folder, self._key)
        except OSError as error:
            self._give_up(None, error)
            return None

    def _finish(self, writer: EntryWriter) -> None:
        assert self._use is not None
        try:
            # Somebody may have written to the file while it was read.
            if self._use.key_of(self._path) == self._key:
                writer.finish()
        except OSError as error:
            self._give_up(writer, error)

    def _give_up(self, writer: EntryWriter | None, error: OSError) -> None:
        if writer is not None:
            writer.drop()
        self._writes = False
        self._trouble(f"what was read is not kept: {error.strerror or error}")

    def _trouble(self, what: str) -> None:
        assert self._use is not None
        self._done.trouble = self._done.trouble or f"--cache {self._use.folder}: {what}"


def _as_fetched(examples: Examples, payload: bytes) -> Examples:
    """Examples as they will be in the rounds, to their layout in memory: a weight must be the same to the bit."""
    plain = all(rows.flags.c_contiguous and rows.dtype.isnative for rows in examples.values())
    return examples if plain else unpack(payload)


def _users(reader: Reader, path: Path, split: str) -> Iterator[Any]:
    of_split = getattr(reader, "read_split", None)
    try:
        return users_of(type(reader).__name__, reader.read(path) if of_split is None else of_split(path, split))
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
