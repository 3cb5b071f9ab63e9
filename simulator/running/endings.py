"""How a simulator learns that the run is over, stops or has failed, while its main thread is at something else."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

from protos.errors import FLError, PeerLost, RunEnded, RunStopped
from scheduler.state.stopping import Stop

# From a broken connection to the end of the watch, which tells whether the run has failed elsewhere.
_LAST_WORDS_SECONDS = 2.0

Interrupt = Callable[[FLError], None]


class Endings:
    """Told by other threads; ends what the main thread waits for.

    What it waits for from the scheduler ends by itself.

    Attributes:
        failure: what went wrong here while the main thread was waiting for something else.
        stopped: how the run stops before its last round, if it does.

    Args:
        rank: of this simulator.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self.failure: str | None = None
        self.stopped: Stop | None = None
        self._lock = threading.Lock()
        self._interrupts: list[Interrupt] = []
        self._error: FLError | None = None
        # What the scheduler's watch has ended with.
        self._last_words: FLError | None = None
        self._over = threading.Event()
        # Whether that, or how the run stops, is known.
        self._told = threading.Event()

    def interrupts(self, interrupt: Interrupt) -> None:
        """Has something interrupted by whatever comes; at once if it is there already."""
        with self._lock:
            self._interrupts.append(interrupt)
            error = self._error
        if error is not None:
            interrupt(error)

    def let_go(self) -> None:
        """All is closed: there is nothing left to interrupt."""
        with self._lock:
            self._interrupts = []

    # -- told by other threads -------------------------------------------------------

    def run_ended(self, error: FLError | None) -> None:
        """The scheduler's watch has ended: the run is over, or why it has failed."""
        self._last_words = error
        self._over.set()
        self._told.set()
        if error is not None:
            self._interrupt(error)

    def run_stops(self, stop: Stop) -> None:
        """The run stops before its last round."""
        self.stopped = stop
        self._told.set()
        self._interrupt(RunStopped(str(stop)))

    def server_crashed(self, error: BaseException) -> None:
        """The data server has met what nobody foresaw."""
        text = "".join(traceback.format_exception(error)).rstrip()
        self._interrupt(FLError(f"the data server of rank {self._rank} failed:\n{text}"))

    def failed_here(self, error: FLError) -> None:
        """Something that is done in a thread of its own has failed."""
        self.failure = str(error)
        self._interrupt(error)

    def _interrupt(self, error: FLError) -> None:
        with self._lock:
            self._error = self._error or error
            interrupts = list(self._interrupts)
        for interrupt in interrupts:
            interrupt(error)

    # -- asked by the main thread ----------------------------------------------------

    def why_lost(self, lost: PeerLost) -> FLError:
        """Why a connection has broken: the scheduler may have said it a moment before it closed all of its own."""
        self._over.wait(_LAST_WORDS_SECONDS)
        return self._last_words if isinstance(self._last_words, RunEnded) else lost

    def wait_for_stop(self) -> Stop:
        """How the run stops; the call that was ended by it may be faster than the watch, which says all of it.

        Raises:
            RunEnded: it has failed.
        """
        self._told.wait()
        if self.stopped is None:
            raise self._words()
        return self.stopped

    def check(self) -> None:
        """Raises RunEnded if the run has ended meanwhile."""
        if self._over.is_set():
            raise self._words()

    def _words(self) -> FLError:
        return self._last_words or RunEnded("the run has ended")
