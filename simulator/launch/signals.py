"""What signals a run listens to: Ctrl-C ends it, SIGTERM and SIGUSR1 have it stop with a checkpoint."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

_STOPS = (signal.SIGTERM, signal.SIGUSR1)
# A launcher that passes on what a scheduler of jobs has sent to all processes sends it a second time.
_SAME_SECONDS = 1.0


class StoppedEarly(KeyboardInterrupt):
    """A signal asked the run to stop before there was a run; the message is its name."""


class RunSignals:
    """The signals of one rank.

    Args:
        saves: whether the run makes checkpoints; without, every signal ends it at once.
    """

    def __init__(self, *, saves: bool) -> None:
        self._saves = saves
        self._follows = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        # When the first SIGTERM came.
        self._terminated: float | None = None
        self._follower: threading.Thread | None = None
        # What was done with each signal before.
        self._before: dict[int, Any] = {}

    def listen(self, *, interrupts: bool = True) -> None:
        """Takes the signals; comes from the main thread.  Until `follow` is called, each ends the run at once.

        Args:
            interrupts: SIGINT too: a script's background job starts with it ignored, and a launcher passes it on.
        """
        if interrupts:
            self._take(signal.SIGINT, _interrupt)
        for number in _STOPS:
            self._take(number, self._on_stop if self._saves else _interrupt)

    def follow(self, ask: Callable[[str], None]) -> None:
        """From now on, a signal asks for a stop.

        Args:
            ask: told the signal's name, in a thread of its own.
        """

        def pass_on() -> None:
            while numbers := os.read(self._read, 16):
                for number in numbers:
                    ask(signal.Signals(number).name)

        self._follows = True
        self._follower = threading.Thread(target=pass_on, name="signals", daemon=True)
        self._follower.start()

    def ignore(self) -> None:
        """The process, or the run, is ending already: nothing must stop its cleaning."""
        for number in (signal.SIGINT, *_STOPS):
            self._take(number, signal.SIG_IGN)

    def restore(self) -> None:
        """Gives the signals back to whom they belonged before."""
        for number, handler in self._before.items():
            # None: what was not set from Python cannot be set back from there.
            if handler is not None:
                signal.signal(number, handler)
        self._before = {}
        os.close(self._write)
        if self._follower is not None:
            self._follower.join()
        os.close(self._read)

    def _take(self, number: int, handler: Any) -> None:
        before = signal.signal(number, handler)
        self._before.setdefault(number, before)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        # In the main thread, wherever that is: no lock may be taken here.
        if not self._follows:
            raise StoppedEarly(signal.Signals(number).name)
        now = time.monotonic()
        if number == signal.SIGTERM:
            if self._terminated is not None and now - self._terminated > _SAME_SECONDS:
                raise KeyboardInterrupt
            self._terminated = self._terminated or now
        # One that finds the pipe full has been heard many times.
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, bytes([number]))


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def hold_back() -> set[int]:
    """Has the signals of a stop wait in this thread, and in a process it starts; returns what held before."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS))


def let_through(before: set[int]) -> None:
    """Ends `hold_back`."""
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_to_simulator() -> None:
    """For a shard, which gets what is sent to all processes of a job: the simulator decides what happens then.

    Ends `hold_back`, in which a shard is started; comes after Paddle's import, which takes SIGTERM for itself.
    """
    for number in _STOPS:
        # Not SIG_IGN: programs that user code starts would inherit it.
        signal.signal(number, _let_be)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


def _let_be(number: int, frame: FrameType | None) -> None:
    """Nothing."""
