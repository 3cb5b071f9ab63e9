"""Whom a run waited for, and what it cost; and how a simulator knows who was the last."""

from types import SimpleNamespace

import pytest

from scheduler.rules.samplers import Round
from scheduler.state.rounds import RoundRecord, Timings
from simulator.output import waiting
from simulator.output.waiting import Waiting
from simulator.shards.jobs import ShareResult
from simulator.shards.pool import ShardPool


def record(uid, wait, seconds=2.0, phase="train"):
    return RoundRecord(phase, Round(0, "20200101", 1, 0), (), seconds, Timings(wait=wait, last=uid))


def test_a_line_says_what_waiting_has_cost_and_for_whom():
    """0.5 + 0.25 + 0.125 + 0.375 of 8 s are 16 %; of that b has 0.5 of 1.25, 40 %, though a was the last more often."""
    each = Waiting()
    assert each.line() is None
    for uid, wait in (("b", 0.5), ("a", 0.25), ("a", 0.125), ("c", 0.375)):
        each.add(record(uid, wait))
    each.add(record("d", 9.0, phase="test"))
    each.add(record("", 9.0))
    assert each.line() == (
        "waiting for the last user of a round took 16% of the time, longest for uid 'b': 40% of the waiting, last in "
        "1 of 4 rounds"
    )


def test_little_waiting_is_not_worth_a_line():
    each = Waiting()
    each.add(record("a", 0.1))
    assert each.line() is None


def test_only_so_many_users_are_remembered(monkeypatch):
    monkeypatch.setattr(waiting, "_MOST", 4)
    each = Waiting()
    for number in range(100):
        each.add(record("long", 1.0) if number % 10 == 0 else record(f"u{number}", 0.1))
    assert len(each._users) <= 4
    assert "longest for uid 'long'" in each.line()
    assert "last in 10 of 100 rounds" in each.line()


class Crew:
    """Two shards that are done at 3 s and 5 s, and one that found nothing to do."""

    def __init__(self, began):
        self.began = began

    def __len__(self):
        return 3

    def do(self, tasks, meanwhile):
        times = [(3.0, "a", 1.0), (5.0, "b", 4.5), (5.5, "", 0.0)]
        return {
            i: (ShareResult([], Timings(last=uid, turn=turn)), self.began + when)
            for i, (when, uid, turn) in enumerate(times)
        }


def test_the_last_of_a_simulator_is_the_user_of_the_shard_that_was_done_last(monkeypatch):
    """Idle are 2.5 + 0.5 + 0 s, on the mean of three 1 s."""
    clock = SimpleNamespace(perf_counter=lambda: 10.0)
    monkeypatch.setattr("simulator.shards.pool.time", clock)
    pool = ShardPool.__new__(ShardPool)
    pool._crew = Crew(10.0)
    timings = pool._run_share(dict.fromkeys(range(3))).timings
    assert (timings.last, timings.turn, timings.wait) == ("b", 4.5, pytest.approx(1.0))
