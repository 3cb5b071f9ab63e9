"""How a run ends before its last round, without having failed: who asks, and what all ranks are told."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from protos.errors import RunStopped

# Of a batch script: not a failure, start again.
STOPPED = os.EX_TEMPFAIL
# Of a run that has decided by itself that it is complete.
FINISHED = os.EX_OK
# Seconds from the wish to the checkpoint on disk; the round that is under way may take half of them.
GRACE_SECONDS = 60.0


@dataclass(frozen=True)
class StopRequest:
    """A wish that the run stops.

    Attributes:
        reason: what asks for it, such as "SIGTERM at rank 2".
        status: exit status of the run.
        grace: seconds until it must be over.
    """

    reason: str
    status: int = STOPPED
    grace: float = GRACE_SECONDS


@dataclass(frozen=True)
class Stop:
    """What was decided: all ranks leave, whatever they are at.

    Attributes:
        reason: as asked.
        status: exit status of the run.
        step: rounds of the run that are done; nothing of a later one counts.
        saves: whether a checkpoint of the state after them is made before.
    """

    reason: str
    status: int
    step: int
    saves: bool

    @property
    def finishes(self) -> bool:
        """Whether the run counts as complete: it has a result, and nobody need go on with it."""
        return self.status == FINISHED

    def __str__(self) -> str:
        after = f"after round {self.step} of the run" if self.step else "before its first round was over"
        return f"stopped by {self.reason} {after}"


class Stopping:
    """Whether a run stops before its last round, and after which; decided here alone.

    Not thread-safe but for its clock: callers hold the lock.

    Args:
        lock: of the run's state.
        over: whether the run has ended or failed meanwhile.
        decide: called with the lock held when it stops: how many rounds are done, and whether a checkpoint of the
            state after them is on its way.
        told: called with the lock held after that: all waiting ends.
        fail: called with the lock held when the grace time is over and the run is not.
    """

    def __init__(
        self, lock: threading.RLock, *, over: Callable[[], bool], decide: Callable[[], tuple[int, bool]],
        told: Callable[[], None], fail: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._lock = lock
        self._over, self._decide, self._told, self._fail = over, decide, told, fail
        self._request: StopRequest | None = None
        self._timers: list[threading.Timer] = []
        self.decided: Stop | None = None
        # Whether the grace time was over before the run was.
        self.late = False

    def ask(self, request: StopRequest, *, at_once: bool) -> None:
        """Has the run stop; the first wish counts.

        Args:
            request: the wish.
            at_once: not after the round that is under way.
        """
        if self._request is not None or self._over():
            return
        self._request = request
        for seconds, act in ((request.grace / 2, self.settle), (request.grace, self._be_late)):
            timer = threading.Timer(seconds, self._act, [act])
            timer.daemon = True
            timer.start()
            self._timers.append(timer)
        if at_once:
            self.settle()

    def finish(self, reason: str) -> None:
        """Ends the run here and now, as one that is complete: its rounds are those that are done.

        A wish that is not granted yet comes too late.
        """
        if self.decided is None and not self._over():
            self._request = StopRequest(reason, FINISHED)
            self.settle()

    def close(self) -> None:
        """The run is over: nobody waits for its grace time."""
        for timer in self._timers:
            timer.cancel()

    def settle(self) -> None:
        """Stops the run here and now, if that was asked for: a round is over, or must not begin."""
        if self._request is not None and self.decided is None:
            step, saves = self._decide()
            self.decided = Stop(self._request.reason, self._request.status, step, saves)
            self._told()

    def check(self) -> None:
        """Raises RunStopped when it was decided: nothing changes the state that is left behind."""
        if (error := self.error) is not None:
            raise error

    @property
    def error(self) -> RunStopped | None:
        """What ends all waiting; None while nothing is decided."""
        return None if self.decided is None else RunStopped(str(self.decided))

    # -- inside ------------------------------------------------------------------

    def _act(self, act: Callable[[], None]) -> None:
        with self._lock:
            if not self._over():
                act()

    def _be_late(self) -> None:
        assert self._request is not None, "the clock begins with it"
        self.late = True
        self._fail(f"interrupted: {self._request.reason}, and no checkpoint within --grace {self._request.grace:g} s")
