"""Which simulator reads which file of a day: each file once in the run, split by size."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from protos.errors import BadInput
from simulator.days import name_within


def listing(data: Path, files: Sequence[Path]) -> bytes:
    """The files one simulator sees, with their sizes, to be exchanged."""
    return json.dumps([[name_within(data, path), path.stat().st_size] for path in files]).encode()


def deal_files(listings: Mapping[int, bytes], lanes: Mapping[int, int], rank: int, where: str) -> list[tuple[int, str]]:
    """The files a simulator reads, as (number, path within the data folder), longest first.

    Folders need not be shared: a file is read by a simulator that sees it.  Files are
    numbered by name, so a user's examples are joined in the same order whoever reads them.

    Args:
        listings: what each simulator sees, by rank.
        lanes: shards of each simulator, by rank.
        rank: of this simulator.
        where: date and split, for errors.

    Raises:
        BadInput: no files, or one name with two sizes.
    """
    sizes: dict[str, int] = {}
    seen_by: dict[str, list[int]] = {}
    for other, payload in sorted(listings.items()):
        for name, size in json.loads(payload):
            if sizes.setdefault(name, size) != size:
                raise BadInput(
                    f"{where}: {name} has {sizes[name]} bytes on rank {seen_by[name][0]} and {size} on rank {other}; "
                    "give the files of folders that are not shared different names"
                )
            seen_by.setdefault(name, []).append(other)
    if not sizes:
        raise BadInput(f"{where}: no files; the day's folder needs files that the reader's `files` finds")
    numbers = {name: number for number, name in enumerate(sorted(sizes))}
    load = dict.fromkeys(lanes, 0.0)
    mine = []
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        reader = min(seen_by[name], key=lambda r: (load[r] + sizes[name] / lanes[r], r))
        load[reader] += sizes[name] / lanes[reader]
        if reader == rank:
            mine.append((numbers[name], name))
    return mine
