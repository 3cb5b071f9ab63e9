"""A shard's reading of a day's files: users in bulk to whoever owns them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from protos.errors import BadInput, TooLarge
from protos.payloads import pack
from simulator import jobs
from simulator.data_client import DataClient
from simulator.examples import check_examples
from simulator.store import UserRecord, check_size

BATCH_BYTES = 8 << 20


def read_files(
    reader: Any, client: DataClient, job: jobs.ReadFiles, turns: Iterable[int], at_file: Callable[[Path], None]
) -> dict[str, int]:
    """Reads files and hands their users to the data servers that own them.

    Args:
        reader: the task's.
        client: to the data servers.
        job: the files.
        turns: which of them are this shard's, one after another.
        at_file: told of each file before it is opened.

    Returns:
        uid -> examples that were read here.

    Raises:
        BadInput: a user's examples cannot be right; with the file and the uid.
    """
    # Parsing makes millions of objects and no cycles: looking for some takes half of the time.
    gc.disable()
    try:
        return _read(reader, client, job, turns, at_file)
    finally:
        gc.enable()


def _read(
    reader: Any, client: DataClient, job: jobs.ReadFiles, turns: Iterable[int], at_file: Callable[[Path], None]
) -> dict[str, int]:
    counts: dict[str, int] = {}
    for i in turns:
        number, path = job.files[i]
        at_file(path)
        batches: dict[int, list[UserRecord]] = {}
        sizes: dict[int, int] = {}
        for place, (uid, examples) in enumerate(reader.read(path)):
            uid = str(uid)
            try:
                counts[uid] = counts.get(uid, 0) + check_examples(uid, examples)
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
    return counts
