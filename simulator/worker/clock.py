"""What a shard's time of a share was spent on."""

from __future__ import annotations

import time

from scheduler.state.rounds import Timings


class Clock:
    """Adds up seconds by what they were spent on."""

    def __init__(self) -> None:
        self._last = self._began = time.perf_counter()
        self._uid = ""
        self._spent = {"pull": 0.0, "train": 0.0, "push": 0.0}

    def lap(self, what: str) -> None:
        """What has passed since the last lap went into this."""
        now = time.perf_counter()
        self._spent[what] += now - self._last
        self._last = now

    def begin(self, uid: str) -> None:
        """A user's turn begins with the end of the last lap."""
        self._uid, self._began = uid, self._last

    def timings(self) -> Timings:
        """The sums, and how long the last user took."""
        return Timings(**self._spent, last=self._uid, turn=self._last - self._began)
