"""simulator/shards/work_queue.py: every job once, whoever dies when."""

import os
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import process_with

from protos.shared_arrays import unnamed_file
from simulator.shards import work_queue
from simulator.shards.work_queue import WorkQueue

ROOT = Path(__file__).resolve().parent.parent
WAIT = 20


@pytest.fixture
def fd():
    made = unnamed_file("test")
    yield made
    os.close(made)


def test_jobs_are_handed_out_in_order_and_once(fd):
    queue = WorkQueue(fd)
    queue.fill(4)
    assert [queue.take(7), queue.take(8), queue.take(7), queue.take(7), queue.take(8)] == [0, 1, 2, 3, None]
    assert (queue.taken_by(7), queue.taken_by(8), queue.taken_by(9)) == ([0, 2, 3], [1], [])


def test_a_queue_starts_over(fd):
    queue = WorkQueue(fd)
    queue.fill(3)
    queue.take(1)
    queue.fill(1)
    assert queue.taken_by(1) == []
    assert [queue.take(0), queue.take(0)] == [0, None]
    queue.fill(0)
    assert queue.take(0) is None


TAKE_ALL = """
import sys
from simulator.shards.work_queue import WorkQueue
queue, shard = WorkQueue(int(sys.argv[1])), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
taken = []
while (job := queue.take(shard)) is not None:
    taken.append(job)
print(*taken, flush=True)
"""


def test_several_processes_take_every_job_exactly_once(fd):
    jobs = 5000
    queue = WorkQueue(fd)
    queue.fill(jobs)
    with process_with(fd, TAKE_ALL, 0) as a, process_with(fd, TAKE_ALL, 1) as b, process_with(fd, TAKE_ALL, 2) as c:
        for child in (a, b, c):
            assert child.stdout.readline() == "ready\n"
        for child in (a, b, c):
            child.stdin.write("\n")
            child.stdin.flush()
        taken = [[int(job) for job in child.stdout.readline().split()] for child in (a, b, c)]
        assert [child.wait(WAIT) for child in (a, b, c)] == [0, 0, 0]
    assert sorted(job for mine in taken for job in mine) == list(range(jobs))
    assert [queue.taken_by(shard) for shard in range(3)] == taken
    assert queue.take(9) is None


HOLD_LOCK = """
import fcntl, sys
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX)
print("ready", flush=True)
sys.stdin.readline()
"""


def test_a_shard_that_dies_with_the_lock_stops_nobody(fd):
    queue = WorkQueue(fd)
    queue.fill(1)
    with process_with(fd, HOLD_LOCK) as holder:
        assert holder.stdout.readline() == "ready\n"
        with process_with(fd, TAKE_ALL, 3) as waiting:
            assert waiting.stdout.readline() == "ready\n"
            waiting.stdin.write("\n")
            waiting.stdin.flush()
            holder.kill()
            assert waiting.stdout.readline() == "0\n"


# -- deaths ------------------------------------------------------------------------


def test_what_is_given_back_comes_next_and_in_its_order(fd):
    """Shard 0 dies with 0 and 2; 1 belongs to another, 3 is free."""
    queue = WorkQueue(fd)
    queue.fill(4)
    for shard in (0, 1, 0):
        queue.take(shard)
    assert queue.job_of(0) == 2
    assert queue.give_back(0) == 2
    assert (queue.taken_by(0), queue.job_of(0), queue.taken_by(1), queue.job_of(1)) == ([], None, [1], 1)
    assert [queue.take(shard) for shard in (0, 1, 0, 1)] == [0, 2, 3, None]


def test_who_found_the_queue_empty_is_at_no_job(fd):
    queue = WorkQueue(fd)
    queue.fill(1)
    assert [queue.take(0), queue.job_of(0), queue.take(0), queue.job_of(0)] == [0, 0, None, None]
    assert queue.taken_by(0) == [0]
    assert queue.give_back(0) == 1
    assert [queue.take(1), queue.take(1)] == [0, None]


def test_a_shard_that_took_nothing_gives_nothing_back(fd):
    queue = WorkQueue(fd)
    queue.fill(2)
    assert queue.give_back(0) == 0
    assert [queue.take(0), queue.take(0), queue.take(0)] == [0, 1, None]


class Died(Exception):
    """Stands for SIGKILL: nothing more is written, and the system frees the lock."""


def dies_in_take(queue, shard, writes):
    """Has a shard die within `take`, after so many writes."""
    left, write = writes, os.pwrite

    def until_death(*arguments):
        nonlocal left
        if left == 0:
            raise Died
        left -= 1
        return write(*arguments)

    with pytest.MonkeyPatch.context() as patch, suppress(Died):
        patch.setattr(work_queue.os, "pwrite", until_death)
        queue.take(shard)


class Model:
    """What a queue should do, without files."""

    def __init__(self, jobs):
        self.free = list(range(jobs))
        self.taken = defaultdict(list)
        self.at = defaultdict(lambda: None)

    def take(self, shard):
        self.at[shard] = self.free.pop(0) if self.free else None
        if self.at[shard] is not None:
            self.taken[shard].append(self.at[shard])
        return self.at[shard]

    def give_back(self, shard):
        back = self.taken.pop(shard, [])
        self.free = back + self.free
        self.at[shard] = None
        return len(back)


SHARDS = st.integers(0, 2)
STEPS = st.one_of(
    st.tuples(st.just("take"), SHARDS),
    st.tuples(st.just("die"), SHARDS),
    st.tuples(st.just("die in take"), SHARDS, st.integers(0, 2)),
    st.tuples(st.just("bury"), SHARDS),
)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.integers(0, 6), st.lists(STEPS, max_size=40))
def test_every_job_is_at_one_place_whoever_dies_when(jobs, steps):
    """Others take on between a death and the time it is noticed."""
    fd = unnamed_file("test")
    try:
        queue, model, dead = WorkQueue(fd), Model(jobs), set()
        queue.fill(jobs)
        for what, shard, *writes in steps:
            if what == "bury":
                assert queue.give_back(shard) == model.give_back(shard)
                dead.discard(shard)
            elif shard in dead:
                continue
            elif what == "take":
                assert queue.take(shard) == model.take(shard)
            else:
                dead.add(shard)
                if what == "die in take":
                    dies_in_take(queue, shard, *writes)
                    if writes == [2]:
                        model.take(shard)
            for each in range(3):
                assert queue.taken_by(each) == model.taken[each]
                assert queue.job_of(each) == model.at[each]
        for shard in dead:
            queue.give_back(shard)
            model.give_back(shard)
        rest = iter(lambda: queue.take(9), None)
        assert list(rest) == model.free
        assert sorted(job for shard in (0, 1, 2, 9) for job in queue.taken_by(shard)) == list(range(jobs))
    finally:
        os.close(fd)


TAKE_ONE_BY_ONE = """
import sys
from simulator.shards.work_queue import WorkQueue
queue, shard = WorkQueue(int(sys.argv[1])), int(sys.argv[2])
while (job := queue.take(shard)) is not None:
    print(job, flush=True)
"""


def test_processes_killed_while_they_take_lose_no_job(fd):
    jobs = 3000
    queue = WorkQueue(fd)
    queue.fill(jobs)
    for shard in range(4):
        with process_with(fd, TAKE_ONE_BY_ONE, shard) as doomed:
            for _ in range(shard * 10 + 1):
                doomed.stdout.readline()
            doomed.kill()
            doomed.stdout.read()
        assert queue.job_of(shard) is not None
        assert queue.give_back(shard) > shard * 10
    assert list(iter(lambda: queue.take(9), None)) == list(range(jobs))
