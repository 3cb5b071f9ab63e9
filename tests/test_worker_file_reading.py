"""Files in a shard, read or taken from a cache: the same records and weights, and nothing kept that could be wrong."""

import errno
import os

import numpy as np
import pytest

from protos.errors import BadInput
from simulator.shards import jobs
from simulator.users.example_cache import CacheUse, EntryWriter
from simulator.users.prepared_cache import PreparedUse
from simulator.worker import file_reading
from simulator.worker.file_reading import prepare, read_files


class Stores:
    """In the place of the data servers: by owner, records by their place."""

    def __init__(self):
        self.records = {}

    def owner(self, uid):
        return int(uid[1:]) % 2

    def send_data(self, owner, records):
        for record in records:
            self.records[owner, record.order] = record
        return len(records)


class Reader:
    """A line is a user's name and its examples; a name may come twice."""

    def __init__(self, on_read=lambda path: None):
        self.read_files, self.on_read = [], on_read

    def read(self, path):
        self.read_files.append(path.name)
        for line in path.read_text().splitlines():
            uid, *values = line.split()
            # Not as it will be fetched: in another order in memory.
            yield uid, {"x": np.array([values, values], "float64").T}
        self.on_read(path)


@pytest.fixture
def data(tmp_path):
    day = tmp_path / "data" / "20200101"
    day.mkdir(parents=True)
    (day / "a").write_text("u1 1 2\nu2 3\nu3 4 5 6\nu1 7\n")
    (day / "b").write_text("u4 8\nu1 9\n")
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(file_reading, "BATCH_BYTES", 60)
    monkeypatch.setattr("simulator.users.example_cache.BLOCK_BYTES", 60)


def read(data, reader, cache=True, split="train"):
    """All files of the day; what was told, and the records that the owners have."""
    files = tuple((10 + i, path) for i, path in enumerate(sorted((data / "20200101").iterdir())))
    use = CacheUse(data.parent / "cache", "k", data) if cache else None
    stores = Stores()
    job = jobs.ReadFiles("20200101", split, files, use)

    def weigh(uid, examples):
        return float(examples["x"].sum()) if uid != "u4" else None

    done = read_files(reader, stores, job, range(len(files)), lambda path: None, weigh)
    return done, stores.records


def entries(data):
    return sorted(path.suffix for path in (data.parent / "cache").iterdir()) if (data.parent / "cache").exists() else []


def test_a_second_start_reads_nothing_and_has_the_same(data):
    reader = Reader()
    plain, records = read(data, reader, cache=False)
    # u1 comes three times, so nobody weighs a piece of it; u4 cannot be weighed by itself.
    assert plain.counts == {"u1": 4, "u2": 1, "u3": 3, "u4": 1}
    assert plain.weights == {"u2": 6.0, "u3": 30.0}
    assert sorted(records) == [(0, (10, 1)), (0, (11, 0)), *[(1, (10, 0)), (1, (10, 2)), (1, (10, 3)), (1, (11, 1))]]
    assert read(data, reader) == (plain, records)
    assert reader.read_files == ["a", "b"] * 2
    again, same = read(data, reader)
    assert reader.read_files == ["a", "b"] * 2
    assert (again.counts, again.weights, same) == (plain.counts, plain.weights, records)
    assert (again.cached, again.trouble, entries(data)) == (2, None, [".users"] * 2)


def test_a_file_that_has_changed_is_read(data):
    reader = Reader()
    read(data, reader)
    (data / "20200101" / "b").write_text("u4 8\nu1 8\n")
    done, records = read(data, reader)
    assert (done.cached, reader.read_files) == (1, ["a", "b", "b"])
    assert records == read(data, reader, cache=False)[1]


@pytest.mark.parametrize("at", [3, 70, 250, -1])
def test_a_damaged_entry_is_read_anew_and_mended(data, at):
    reader = Reader()
    plain, records = read(data, reader, cache=False)
    read(data, reader)
    entry = max((data.parent / "cache").iterdir(), key=lambda path: path.stat().st_size)
    whole = entry.read_bytes()
    damaged = bytearray(whole)
    damaged[at] ^= 255
    entry.write_bytes(damaged)
    done, mended = read(data, reader)
    assert (done.counts, done.weights, mended, done.cached) == (plain.counts, plain.weights, records, 1)
    assert "20200101/a is read anew: " in done.trouble
    assert entry.read_bytes() == whole
    assert read(data, reader)[0].cached == 2


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["_write", "finish", "__init__"])
def test_a_full_disk_costs_the_cache_alone(data, monkeypatch, step):
    plain, records = read(data, Reader(), cache=False)
    monkeypatch.setattr(EntryWriter, step, full)
    done, same = read(data, Reader())
    assert (done.counts, done.weights, same, done.cached) == (plain.counts, plain.weights, records, 0)
    assert done.trouble == f"--cache {data.parent / 'cache'}: what was read is not kept: No space left on device"
    assert entries(data) == []


def test_a_folder_that_cannot_be_made_costs_the_cache_alone(data):
    (data.parent / "cache").write_text("a file")
    done, records = read(data, Reader())
    assert records == read(data, Reader(), cache=False)[1]
    assert "is read anew: [Errno 20] Not a directory" in done.trouble


def test_a_file_that_changes_while_it_is_read_is_not_kept(data):
    def other(path):
        path.write_text("u9 1\n")

    read(data, Reader(on_read=other))
    assert entries(data) == []


def test_of_a_file_with_a_mistake_nothing_is_kept(data):
    (data / "20200101" / "b").write_text("u4 8\nu1\n")
    with pytest.raises(BadInput, match="uid 'u1' has no examples"):
        read(data, Reader())
    assert entries(data) == [".users"]


class Slow:
    """Prepares from its files."""

    def __init__(self):
        self.times = 0

    def prepare(self, data, files):
        self.times += 1
        return {"text": files[0].read_text()}


@pytest.mark.parametrize(("seconds", "times"), [(-1.0, 1), (60.0, 2)])
def test_what_takes_long_to_prepare_is_kept(data, monkeypatch, seconds, times):
    monkeypatch.setattr(file_reading, "SLOW_SECONDS", seconds)
    file = data / "20200101" / "b"
    reader, job = Slow(), jobs.Prepare(data, (file,), PreparedUse(data.parent / "cache", "k", data, (file,)))
    assert prepare(reader, job) == prepare(reader, job) == '{"text": "u4 8\\nu1 9\\n"}'
    assert reader.times == times
    file.write_text("other")
    assert prepare(reader, job) == '{"text": "other"}'
    assert prepare(reader, jobs.Prepare(data, (file,))) == '{"text": "other"}'
    assert reader.times == times + 2


def test_a_damaged_answer_is_prepared_anew(data, monkeypatch, caplog):
    monkeypatch.setattr(file_reading, "SLOW_SECONDS", -1.0)
    file = data / "20200101" / "b"
    reader, job = Slow(), jobs.Prepare(data, (file,), PreparedUse(data.parent / "cache", "k", data, (file,)))
    told = prepare(reader, job)
    (entry,) = (data.parent / "cache").iterdir()
    entry.write_bytes(entry.read_bytes()[:-1])
    assert prepare(reader, job) == told
    assert "what Slow.prepare gave is made anew: it is cut off" in caplog.text
    assert prepare(reader, job) == told
    assert reader.times == 2
