"""The one lock of a run: who waits for what, and what ends all waiting.

Every wait ends when what it waits for is there or when the run has failed, so no
rank hangs behind another that is gone.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from protos.answers import wait_in_call
from protos.errors import FLError, NotFound, RunEnded, RunStopped, TooLarge

# Of one simulator: calls that wait at once, beside its watch.
MAX_WAITING = 4


class RunLock:
    """Held (`with run_lock:`) by whoever reads or changes the state of a run.

    Args:
        ranks: of the simulators.

    Attributes:
        ranks: of the simulators, in order.
        lock: the lock itself.
        failure: why the run has failed, None while it has not.
        stop: what those hear who wait in a run that stops early; None while it does not.
    """

    def __init__(self, ranks: Sequence[int]) -> None:
        self.ranks = tuple(sorted(ranks))
        self.lock = threading.RLock()
        self.failure: str | None = None
        self.stop: RunStopped | None = None
        # Two reasons to wait: a round's push does not wake those who wait for the end.
        self._changed = threading.Condition(self.lock)
        self._over = threading.Condition(self.lock)
        self._waiting: Counter[int] = Counter()

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *error: object) -> None:
        self.lock.release()

    def check_rank(self, rank: int) -> None:
        """Raises NotFound if a rank is no simulator."""
        if rank not in self.ranks:
            raise NotFound(f"rank {rank} is not a simulator of this run ({list(self.ranks)})")

    @contextmanager
    def turn(self, rank: int) -> Iterator[None]:
        """Holds the lock in a call of a simulator that may wait, and holds a thread of the server while it does.

        Raises:
            NotFound: no simulator has this rank.
            TooLarge: too many of its calls wait already.
        """
        with self.lock:
            self.check_rank(rank)
            if self._waiting[rank] >= MAX_WAITING:
                raise TooLarge(f"rank {rank} has {MAX_WAITING} calls that wait; no more are allowed")
            self._waiting[rank] += 1
            try:
                yield
            finally:
                self._waiting[rank] -= 1
                if not self._waiting[rank]:
                    del self._waiting[rank]

    def wait(self, ready: Callable[[], bool]) -> None:
        """Waits for something that changes as the run goes on; raises if the run fails or stops first."""
        wait_in_call(self._changed, ready, lambda: self._failed() or self.stop)

    def wait_for_end(self, ready: Callable[[], bool]) -> None:
        """Waits for something at the end of the run; raises if the run fails first."""
        wait_in_call(self._over, ready, self._failed)

    def wait_seconds(self, ready: Callable[[], bool], seconds: float) -> None:
        """As `wait_for_end`, whatever becomes of the run, and not longer than this."""
        self._over.wait_for(ready, seconds)

    def wake(self) -> None:
        """Something has changed."""
        self._changed.notify_all()

    def wake_for_end(self) -> None:
        """Something has changed that the end of the run depends on."""
        self._over.notify_all()

    def wake_all(self) -> None:
        """Both."""
        self.wake()
        self.wake_for_end()

    def _failed(self) -> FLError | None:
        return None if self.failure is None else RunEnded(self.failure)
