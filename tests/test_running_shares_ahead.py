"""simulator/running/shares_ahead.py: every round's share once and in order, in few calls when rounds are short."""

import pytest

from scheduler.rules.samplers import Round
from scheduler.state.rounds import Share
from simulator.running.shares_ahead import SharesAhead

FIRST = Round(3, "20200101", 1, 40)


def played(rounds, seconds):
    """Plays a day whose rounds take so long; the calls as (round, step, how many)."""
    calls, now = [], [0.0]

    def ask(at, count):
        assert (at.seed, at.date) == (3, "20200101")
        calls.append((at.round, at.step, count))
        return lambda: {at.step + k: Share((f"u{at.step + k}",), (1,)) for k in range(count)}

    shares = SharesAhead(ask, FIRST, rounds, lambda: now[0])
    for step in range(40, 40 + rounds):
        assert shares.take(step).uids == (f"u{step}",)
        now[0] += seconds
    return calls


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.1, 0.25, 3.0])
@pytest.mark.parametrize("rounds", [1, 2, 7, 100])
def test_every_round_is_asked_for_once_and_none_beyond_the_day(rounds, seconds):
    calls = played(rounds, seconds)
    asked = [(first + k, step + k) for first, step, count in calls for k in range(count)]
    assert asked == [(k + 1, 40 + k) for k in range(rounds)]


def test_long_rounds_are_asked_for_one_by_one_during_the_one_before():
    assert played(3, 1.0) == [(1, 40, 1), (2, 41, 1), (3, 42, 1)]


def test_short_rounds_are_asked_for_in_bulk():
    calls = played(100, 0.01)
    assert max(count for _, _, count in calls) == 16
    assert len(calls) <= 2 + 100 / 16 + 1


@pytest.mark.parametrize("seconds", [0.0, 3.0])
def test_a_share_that_is_looked_at_is_still_to_be_taken(seconds):
    calls, now = [], [0.0]

    def ask(at, count):
        calls.append((at.step, count))
        return lambda: {at.step + k: Share((f"u{at.step + k}",), (1,)) for k in range(count)}

    shares = SharesAhead(ask, FIRST, 5, lambda: now[0])
    for step in range(40, 45):
        now[0] += seconds
        assert shares.take(step).uids == (f"u{step}",)
        if step < 44:
            assert shares.peek(step + 1).uids == (f"u{step + 1}",)
    assert [step + k for step, count in calls for k in range(count)] == [40, 41, 42, 43, 44]
