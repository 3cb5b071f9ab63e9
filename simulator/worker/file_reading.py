"""A shard's reading of a day's files: users in bulk to whoever owns them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from protos.errors import BadInput, TooLarge
from protos.payloads import pack, unpack
from scheduler.state.read_users import ReadUsers
from simulator.contracts import Examples, Reader
from simulator.shards import jobs
from simulator.users.data_client import DataClient
from simulator.users.examples import check_examples, check_user, users_of
from simulator.users.store import UserRecord, check_size

BATCH_BYTES = 8 << 20


# A user's weight, from a piece of its examples.
Weigh = Callable[[str, Examples], float | None]


def read_files(
    reader: Reader,
    client: DataClient,
    job: jobs.ReadFiles,
    turns: Iterable[int],
    at_file: Callable[[Path], None],
    weigh: Weigh | None,
) -> ReadUsers:
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
    # Parsing makes millions of objects and no cycles: looking for some takes half of the time.
    gc.disable()
    try:
        return _read(reader, client, job, turns, at_file, weigh)
    finally:
        gc.enable()


def _read(
    reader: Reader,
    client: DataClient,
    job: jobs.ReadFiles,
    turns: Iterable[int],
    at_file: Callable[[Path], None],
    weigh: Weigh | None,
) -> ReadUsers:
    users = ReadUsers()
    for i in turns:
        number, path = job.files[i]
        at_file(path)
        batches: dict[int, list[UserRecord]] = {}
        sizes: dict[int, int] = {}
        for place, item in enumerate(_users(reader, path)):
            try:
                uid, examples = check_user(type(reader).__name__, item)
                count = check_examples(uid, examples)
                payload = pack(examples)
                check_size(uid, payload)
            except (BadInput, TooLarge) as error:
                raise BadInput(f"{path}: {error}") from error
            owner = client.owner(uid)
            users.add(uid, count, None if weigh is None else weigh(uid, _as_fetched(examples, payload)))
            batches.setdefault(owner, []).append(UserRecord(uid, job.date, job.split, (number, place), payload))
            sizes[owner] = sizes.get(owner, 0) + len(payload)
            if sizes[owner] > BATCH_BYTES:
                client.send_data(owner, batches.pop(owner))
                sizes[owner] = 0
        for owner, records in batches.items():
            client.send_data(owner, records)
    return users


def _as_fetched(examples: Examples, payload: bytes) -> Examples:
    """Examples as they will be in the rounds, to their layout in memory: a weight must be the same to the bit."""
    plain = all(rows.flags.c_contiguous and rows.dtype.isnative for rows in examples.values())
    return examples if plain else unpack(payload)


def _users(reader: Reader, path: Path) -> Iterator[Any]:
    try:
        return users_of(type(reader).__name__, reader.read(path))
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
