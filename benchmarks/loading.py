"""MB of LEAF JSON a second that one core takes from the file to the store of users, and from a cache of what it made.

    python benchmarks/loading.py
    python benchmarks/loading.py lm_data
    python benchmarks/loading.py --megabytes 1 8 64

Reads with `LeafRedditReader` and puts into `UserStore`, as a shard does for the users that its own simulator owns,
in one process of one thread.  Then the same with `--cache`, at a second start: a digest of the file, and the users
of the cache into a fresh store.  Without DATA, files are made up; with it, each train file of the first day is taken.
A day of several files is read by all shards at once, so a simulator of n shards takes about n times as much.
The store lies in TMPDIR.  Wants a machine at rest.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from common import first_day, machine, show

from protos.payloads import pack
from reader import Examples, LeafRedditReader
from simulator.users.example_cache import CachedUser, CacheUse, read_entry, write_entry
from simulator.users.examples import check_examples
from simulator.users.store import UserRecord, UserStore

DATE = "20200101"
WORDS, TOKENS, COMMENTS = 20_000, 10, 30  # vocabulary; of a sequence; of a made-up user
BATCH_BYTES = 8 << 20  # stored together


@dataclass(frozen=True)
class Loading:
    """What loading a file took."""

    users: int
    examples: int
    read: float
    store: float
    cached: float


def read_arguments() -> argparse.Namespace:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("data", nargs="?", type=Path, help="data folder; made up if not given")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1, 4, 16], help="sizes of made-up files")
    parser.add_argument("--repeat", type=int, default=3)
    return parser.parse_args()


def make_user(rng: np.random.Generator) -> dict[str, object]:
    """LEAF's entry of one user: comments of one to three sequences, words as frequent as Zipf has it."""
    x, y = [], []
    for length in rng.integers(1, 3 * TOKENS, COMMENTS).tolist():
        words = [f"word{n % WORDS}" for n in rng.zipf(1.3, length + 1).tolist()]
        cuts = range(0, length, TOKENS)
        pads = [max(0, cut + TOKENS - length) for cut in cuts]
        pairs = list(zip(cuts, pads, strict=True))
        x.append([words[c : min(c + TOKENS, length)] + ["<PAD>"] * p for c, p in pairs])
        targets = [words[c + 1 : min(c + TOKENS, length) + 1] + ["<PAD>"] * p for c, p in pairs]
        y.append({"target_tokens": targets, "count_tokens": [[1] * (TOKENS - p) + [0] * p for _, p in pairs]})
    return {"x": x, "y": y}


def make_files(folder: Path, megabytes: list[float]) -> None:
    """Writes a train file of about each size."""
    rng = np.random.default_rng(0)
    (folder / DATE).mkdir(parents=True)
    entries = [orjson.dumps(make_user(rng)) for _ in range(200)]
    for number, size in enumerate(sorted(megabytes)):
        parts: list[bytes] = []
        left = size * 1e6
        while left > 0 or not parts:
            entry = entries[len(parts) % len(entries)]
            parts.append(b'"u%d":%b' % (len(parts), entry))
            left -= len(parts[-1])
        text = b'{"user_data":{' + b",".join(parts) + b"}}"
        (folder / DATE / f"train_{number}.json").write_bytes(text)


def packed(users: list[tuple[str, Examples]]) -> Iterator[CachedUser]:
    """Users as they are kept."""
    for uid, examples in users:
        yield CachedUser(uid, check_examples(uid, examples), pack(examples))


def batches(users: Iterable[CachedUser]) -> Iterator[list[UserRecord]]:
    """Users as they are stored, some MB at a time."""
    batch, size = [], 0
    for place, user in enumerate(users):
        batch.append(UserRecord(user.uid, DATE, "train", (0, place), user.payload))
        size += len(user.payload)
        if size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    yield batch


def load(reader: LeafRedditReader, path: Path) -> Loading:
    """Takes one file to a fresh store."""
    began = time.perf_counter()
    users = list(reader.read(path))
    read = time.perf_counter() - began
    store = seconds_to_store(packed(users))
    with tempfile.TemporaryDirectory() as folder:
        cache = CacheUse(Path(folder), "benchmark", path.parent)
        began = time.perf_counter()
        key = cache.key_of(path)
        look = time.perf_counter() - began
        writer = write_entry(cache.folder, key)
        for user in packed(users):
            writer.add(user.uid, user.count, user.payload)
        writer.finish()
        cached = look + seconds_to_store(read_entry(cache.folder, key) or ())
    return Loading(len(users), sum(len(u["x"]) for _, u in users), read, store, cached)


def seconds_to_store(users: Iterable[CachedUser]) -> float:
    """Puts users into a fresh store."""
    with tempfile.TemporaryDirectory() as folder:
        store = UserStore(Path(folder))
        began = time.perf_counter()
        for batch in batches(users):
            store.put_examples(batch)
        took = time.perf_counter() - began
        store.close()
    return took


def main() -> None:
    """Measures and prints."""
    asked = read_arguments()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        data = asked.data or Path(name)
        if asked.data is None:
            make_files(data, asked.megabytes)
        reader = LeafRedditReader()
        files = reader.files(data / first_day(data), "train")
        reader.setup(reader.prepare(data, files))
        for path in files:
            taken = [load(reader, path) for _ in range(asked.repeat)]
            mb = path.stat().st_size / 1e6
            parts = ("read", "store", "cached")
            read, store, cached = (statistics.median(getattr(each, part) for each in taken) for part in parts)
            counts = (f"{taken[0].users:,}", f"{taken[0].examples:,}")
            rows.append(
                [f"{mb:.1f} MB", *counts, f"{read:.3f}", f"{store:.3f}", f"{cached:.3f}", f"{mb / (read + store):.1f}"]
            )
    columns = ["file", "users", "sequences", "s reading", "s storing", "s from a cache", "MB a second"]
    show("From file to store, one core", columns, rows, f"median of {asked.repeat} times", machine())


if __name__ == "__main__":
    main()
