"""A shard's reading of a day's files: users in bulk to whoever owns them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from protos.errors import BadInput, TooLarge
from protos.payloads import pack
from simulator import jobs
from simulator.data_client import DataClient
from simulator.examples import Examples, check_examples, check_user, users_of
from simulator.store import UserRecord, check_size

BATCH_BYTES = 8 << 20


def read_files(
    reader: Any,
    client: DataClient,
    job: jobs.ReadFiles,
    turns: Iterable[int],
    at_file: Callable[[Path], None],
    weigh: Callable[[str, Examples], float],
) -> jobs.UsersRead:
    """Reads files and hands their users to the data servers that own them.

    Args:
        reader: the task's.
        client: to the data servers.
        job: the files.
        turns: which of them are this shard's, one after another.
        at_file: told of each file before it is opened.
        weigh: a user's weight, if the job asks for it.

    Returns:
        The users that were read here.

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
    reader: Any,
    client: DataClient,
    job: jobs.ReadFiles,
    turns: Iterable[int],
    at_file: Callable[[Path], None],
    weigh: Callable[[str, Examples], float],
) -> jobs.UsersRead:
    read = jobs.UsersRead()
    for i in turns:
        number, path = job.files[i]
        at_file(path)
        batches: dict[int, list[UserRecord]] = {}
        sizes: dict[int, int] = {}
        for place, item in enumerate(_users(reader, path)):
            try:
                uid, examples = check_user(type(reader).__name__, item)
                count = check_examples(uid, examples)
                read.add(uid, count, weigh(uid, examples) if job.weigh else None)
                payload = pack(examples)
                check_size(uid, payload)
            except (BadInput, TooLarge) as error:
                raise BadInput(f"{path}: {error}") from error
            owner = client.owner(uid)
            batches.setdefault(owner, []).append(UserRecord(uid, job.date, job.split, (number, place), payload))
            sizes[owner] = sizes.get(owner, 0) + len(payload)
            if sizes[owner] > BATCH_BYTES:
                client.send_data(owner, batches.pop(owner))
                sizes[owner] = 0
        for owner, records in batches.items():
            client.send_data(owner, records)
    return read


def _users(reader: Any, path: Path) -> Iterator[Any]:
    try:
        return users_of(type(reader).__name__, reader.read(path))
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
