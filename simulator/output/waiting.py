"""Whom shards wait for at the end of a round: no schedule can split one user's training."""

from __future__ import annotations

from scheduler.state.rounds import TRAIN, RoundRecord

# Users that are remembered at most; of more, those waited for least are forgotten.
_MOST = 10_000
# Less of a run's time is not worth a line.
_WORTH = 0.05


class Waiting:
    """Adds up the waiting of a run's rounds by the user that was trained last."""

    def __init__(self) -> None:
        self._seconds = self._waited = 0.0
        self._rounds = 0
        # uid -> seconds waited for it, rounds in which it was the last
        self._users: dict[str, tuple[float, int]] = {}

    def add(self, record: RoundRecord) -> None:
        """Takes a round; nothing of a test."""
        timings = record.timings
        if record.phase != TRAIN or not timings.last:
            return
        self._rounds += 1
        self._seconds += record.seconds
        self._waited += timings.wait
        waited, rounds = self._users.get(timings.last, (0.0, 0))
        self._users[timings.last] = waited + timings.wait, rounds + 1
        if len(self._users) > _MOST:
            self._users = dict(sorted(self._users.items(), key=lambda each: -each[1][0])[: _MOST // 2])

    def line(self) -> str | None:
        """What it has cost and whose it was; None if it was little."""
        if not self._waited > _WORTH * self._seconds:
            return None
        uid, (waited, rounds) = max(self._users.items(), key=lambda each: each[1][0])
        return (
            f"waiting for the last user of a round took {self._waited / self._seconds:.0%} of the time, longest for "
            f"uid {uid!r}: {waited / self._waited:.0%} of the waiting, last in {rounds} of {self._rounds} rounds"
        )
