"""A simulator's shares of the coming cohorts, asked for while the shards train."""

from __future__ import annotations

import time
from collections.abc import Callable

from scheduler.rules.samplers import Round
from scheduler.state.coming_rounds import MAX_AHEAD
from scheduler.state.rounds import Share

# Rounds that take less than this together are asked for in one call.
AT_ONCE_SECONDS = 0.25

Ask = Callable[[Round, int], Callable[[], dict[int, Share]]]


class SharesAhead:
    """The shares of a day's rounds, one after another.

    When a round takes milliseconds, a call for every one of them would cost as much
    as the training, so short rounds are asked for in bulk.

    Args:
        ask: begins a call for so many rounds; returns what waits for its answer.
        first: the day's first round.
        rounds: of the day.
        clock: seconds; replaced in tests.
    """

    def __init__(self, ask: Ask, first: Round, rounds: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._ask, self._clock = ask, clock
        self._first, self._end = first, first.step + rounds
        self._here: dict[int, Share] = {}
        self._coming: Callable[[], dict[int, Share]] | None = None
        self._asked = first.step
        self._last: float | None = None

    def take(self, step: int) -> Share:
        """The share of a round; each is taken once, in order."""
        now = self._clock()
        bulk = 1
        if self._last is not None:
            bulk = max(1, min(MAX_AHEAD // 2, int(AT_ONCE_SECONDS / max(now - self._last, 1e-9))))
        self._last = now
        self._have(step, bulk)
        share = self._here.pop(step)
        if self._coming is None and len(self._here) <= bulk // 2:
            self._begin(bulk)
        return share

    def peek(self, step: int) -> Share:
        """The share of the round after the last that was taken, which is still to be taken."""
        self._have(step, 1)
        return self._here[step]

    def _have(self, step: int, bulk: int) -> None:
        if step not in self._here:
            if self._coming is None:
                self._begin(bulk)
            assert self._coming is not None
            self._here |= self._coming()
            self._coming = None

    def _begin(self, rounds: int) -> None:
        rounds = min(rounds, self._end - self._asked)
        if rounds:
            past = self._asked - self._first.step
            first = Round(self._first.seed, self._first.date, self._first.round + past, self._asked)
            self._coming = self._ask(first, rounds)
            self._asked += rounds
