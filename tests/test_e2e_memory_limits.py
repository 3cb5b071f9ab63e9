"""simulator/machine/address_space.py, shard_deaths.py and the store's size: too little memory is said with its cure."""

import resource
import subprocess
import sys
import time

import lmdb
import pytest
from running import TINY, environment
from tiny_task import make_data

from protos.errors import FLError
from simulator.machine.address_space import lack_of_memory
from simulator.shards.deaths import OomKills, death_hint
from simulator.users import store
from simulator.users.store import UserRecord, UserStore, map_bytes

GIB = 1 << 30


@pytest.fixture
def limited(monkeypatch):
    """A limit of 4 GiB of address space, as the program sees it."""
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (4 * GIB, resource.RLIM_INFINITY))


# -- the store's share of a limit ----------------------------------------------------


def test_the_store_takes_half_of_a_limit_and_256_gib_without(monkeypatch):
    limits = {resource.RLIM_INFINITY: 256 * GIB, 4 * GIB: 2 * GIB, 3_000_000_000: 1_500_000_000 >> 16 << 16,
              4096 * GIB: 256 * GIB}  # fmt: skip
    for limit, size in limits.items():
        monkeypatch.setattr(resource, "getrlimit", lambda kind, limit=limit: (limit, limit))
        assert map_bytes() == size


def fill(folder):
    made = UserStore(folder)
    try:
        with pytest.raises(FLError) as caught:
            made.put_examples([UserRecord("a", "20200101", "train", (0, 0), bytes(1 << 18))])
    finally:
        made.close()
    assert isinstance(caught.value.__cause__, lmdb.MapFullError)
    return str(caught.value)


def test_a_store_that_is_full_at_half_of_a_limit_says_that_it_is_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1 << 18, 1 << 18))
    said = fill(tmp_path)
    assert f"the store of users in {tmp_path} is full: it may take 0.0 GiB, half of the address space" in said
    assert "raise the limit or remove it (ulimit -v unlimited), or use more simulators" in said
    assert "disk" not in said


def test_a_store_that_is_full_without_a_limit_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "MAP_BYTES", 1 << 16)
    assert "is full: a simulator holds at most 0.0 GiB; use more simulators" in fill(tmp_path)


# -- errors that a limit brings about -----------------------------------------------


def wrapped(error):
    try:
        raise ValueError("file: not JSON") from error
    except ValueError as outer:
        return outer


ERRORS = [
    MemoryError(),
    MemoryError("std::bad_alloc"),
    OSError(12, "Cannot allocate memory"),
    ImportError("libpaddle.so: failed to map segment from shared object"),
    RuntimeError("can't start new thread"),
    ValueError("not JSON: Not enough memory to allocate buffer for parsing"),
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_an_error_of_memory_names_the_limit(limited, error):
    for each in (error, wrapped(error)):
        said = lack_of_memory(each)
        assert said.endswith("each process of this job may have 4.0 GiB of address space: raise the limit or remove it "
                             "(ulimit -v unlimited)")  # fmt: skip
        assert "\n" not in said


def test_other_errors_and_jobs_without_a_limit_are_left_alone(monkeypatch, limited):
    assert lack_of_memory(KeyError("x")) is None
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert lack_of_memory(MemoryError()) is None


# -- a real limit --------------------------------------------------------------------


def run_limited(tmp_path, mib, *, ranks=1):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (mib << 20, mib << 20))

    start = ["mpirun", "-np", str(ranks)] if ranks > 1 else []
    return subprocess.run(
        [*start, sys.executable, str(TINY), str(make_data(tmp_path / "data")), "--rounds", "1", "--sample-num", "12",
         "--shards", "1", "--test-sampler", "none", "--output", str(tmp_path / "out")],
        env=environment(), capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL, preexec_fn=limit,
    )  # fmt: skip


@pytest.mark.parametrize("ranks", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_run_within_a_limit_of_address_space_goes_through(tmp_path, ranks):
    done = run_limited(tmp_path, 4096, ranks=ranks)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("mib", [1536, 1700])
def test_a_run_within_too_small_a_limit_for_paddle_says_to_raise_it_and_ends(tmp_path, mib):
    began = time.monotonic()
    done = run_limited(tmp_path, mib)
    assert time.monotonic() - began < 60
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("rank 0: ")]
    assert line.endswith("raise the limit or remove it (ulimit -v unlimited)")


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_limit_within_which_no_rank_can_live_is_refused_before_anything_starts(tmp_path, ranks):
    """gRPC aborts a process in which it can start no thread, or leaves its server deaf: neither is come to."""
    done = run_limited(tmp_path, 1024, ranks=ranks)
    said = [line for line in done.stderr.splitlines() if "address space" in line]
    assert said == ["error: a run needs 1.5 GiB or more; each process of this job may have 1.0 GiB of address space: "
                    "raise the limit or remove it (ulimit -v unlimited)"]  # fmt: skip
    assert done.returncode == 2
    assert not (tmp_path / "out").exists()


# -- shards that were killed ---------------------------------------------------------


def groups(tmp_path, lines, files):
    root = tmp_path / "cgroup"
    for name, count in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"oom 7\nunder_oom 0\noom_kill {count}\n")
    (tmp_path / "own").write_text(lines)
    (tmp_path / "vmstat").write_text("nr_free_pages 5\noom_kill 3\n")
    return OomKills(root, tmp_path / "own", tmp_path / "vmstat"), root


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ("0::/job/step\n", "job/step/memory.events"),
        ("0::/job/step\n", "job/memory.events"),
        ("0::/\n", "memory.events"),
        ("4:memory:/job\n0::/\n", "memory/job/memory.oom_control"),
        ("4:memory:/docker/1f\n", "memory/memory.oom_control"),
        ("5:cpu,memory:/job\n", "cpu,memory/job/memory.oom_control"),
    ],
)
def test_kills_are_counted_in_ones_own_groups_and_those_above(tmp_path, lines, name):
    kills, root = groups(tmp_path, lines, {name: 2})
    assert not kills.new()
    (root / name).write_text("oom_kill 3\n")
    (tmp_path / "vmstat").write_text("oom_kill 9\n")
    assert (kills.new(), kills.new()) == (True, False)
    (tmp_path / "vmstat").write_text("oom_kill 10\n")  # somebody else's
    assert not kills.new()


def test_where_no_group_counts_the_machine_does(tmp_path):
    kills, _ = groups(tmp_path, "0::/\n", {})
    assert not kills.new()
    (tmp_path / "vmstat").write_text("oom_kill 4\n")
    assert kills.new()


def test_a_machine_that_tells_nothing_is_none_that_killed(tmp_path):
    assert not OomKills(tmp_path, tmp_path / "none", tmp_path / "none").new()


def test_the_cure_of_a_killed_shard_is_fewer_of_them(limited):
    fewer = "use fewer shards, such as --shards 3 (4 are in use)"
    assert death_hint(-9, 4, oom_killed=True) == f"; memory ran out and the kernel killed it: {fewer}"
    assert death_hint(-9, 4, oom_killed=False) == f"; the system may have run out of memory: if so, {fewer}"
    assert "give the run more memory" in death_hint(-9, 1, oom_killed=True)
    assert "--shards" not in death_hint(-9, 1, oom_killed=True)


def test_other_deaths_name_a_limit_if_there_is_one(monkeypatch, limited):
    assert "4.0 GiB of address space: raise the limit" in death_hint(-6, 4, oom_killed=False)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert death_hint(-6, 4, oom_killed=False) == death_hint(1, 4, oom_killed=False) == ""
