"""The state of the rounds as calls come to it: not before all have joined, and not when the run has stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from protos.errors import WrongState
from scheduler.service.run_lock import RunLock
from scheduler.state.coming_rounds import MAX_AHEAD
from scheduler.state.round_state import RoundState

# Rounds ahead of the one that is due that a simulator of ours may wait for.
HORIZON = 4 * MAX_AHEAD


class LiveState:
    """Where a run's `RoundState` is.

    Args:
        run: its lock.

    Attributes:
        run: the lock.
        state: None before all simulators have joined.
    """

    def __init__(self, run: RunLock) -> None:
        self.run = run
        self.state: RoundState | None = None

    @contextmanager
    def held(self) -> Iterator[RoundState]:
        """The state, with the lock held.

        Raises:
            WrongState: not all simulators have joined.
            RunStopped: nothing changes the state that a run leaves behind.
        """
        with self.run:
            if self.state is None:
                raise WrongState("not all simulators have joined yet")
            if self.run.stop is not None:
                raise self.run.stop
            yield self.state

    @contextmanager
    def turn(self, rank: int) -> Iterator[RoundState]:
        """As `held`, in a call of a simulator that may wait; see `RunLock.turn`."""
        with self.run.turn(rank), self.held() as state:
            yield state


def check_near(state: RoundState, step: int, last: int) -> None:
    """Refuses to wait for a round that is far off or never comes, which would be for ever."""
    if step > min(state.step + HORIZON, last):
        raise WrongState(f"round {step} of the run was asked for, {state.step} is due, {last} is the last")
