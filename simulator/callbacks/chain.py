"""All callbacks of a run as one, and what they remembered after each round."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from protos.codec import Tensors
from protos.errors import BadInput
from scheduler.state.rounds import TRAIN, Decision, RoundRecord
from simulator.callbacks.callback import Callback, RunInfo
from simulator.output.result import RunResult


class CallbackChain:
    """The callbacks of one run, told and asked in the order in which they were set.

    Args:
        callbacks: of the page.
        saves: whether checkpoints are made.
    """

    def __init__(self, callbacks: Sequence[Callback], *, saves: bool) -> None:
        self._callbacks, self._saves = tuple(callbacks), saves
        self._open = list(callbacks)
        # Rounds are decided on in one thread, and their checkpoints written in another.
        self._lock = threading.Lock()
        # (rounds done, what was remembered then as JSON), where that has changed.
        self._states: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._callbacks)

    def begin(self, run: RunInfo) -> None:
        """Tells all that a run begins."""
        for callback in self._callbacks:
            callback.on_begin(run)

    def decide(self, record: RoundRecord) -> Decision:
        """The first reason to stop, and whether anybody keeps the parameters or asks for a test."""
        reason, keep, test = None, False, False
        for callback in self._callbacks:
            decision = callback.decide(record)
            if decision.test and not callback.asks_tests:
                raise BadInput(f"{type(callback).__name__} asks for a test: it must say so with asks_tests = True")
            reason = decision.stop if reason is None else reason
            keep, test = keep or decision.keep, test or decision.test
        # A checkpoint is of the state after a round; the tests that follow it are done again.
        if self._saves and record.phase == TRAIN:
            self._remember(record.at.step + 1)
        return Decision(reason, keep, test)

    def on_record(self, record: RoundRecord, kept: Tensors | None) -> None:
        """Tells all that a round or test is in the record."""
        for callback in self._callbacks:
            callback.on_record(record, kept)

    def on_end(self, result: RunResult) -> None:
        """Tells all what has come of the run."""
        for callback in self._callbacks:
            callback.on_end(result)

    def close(self) -> None:
        """Has all give back what they hold, once, though one of them fails."""
        with ExitStack() as closing:
            while self._open:
                closing.callback(self._open.pop().close)

    # -- checkpoints -----------------------------------------------------------------

    def state_after(self, step: int) -> dict[str, Any]:
        """What all remembered when `step` rounds were done; asked for later and later rounds."""
        with self._lock:
            while len(self._states) > 1 and self._states[1][0] <= step:
                del self._states[0]
            if not self._states or self._states[0][0] > step:
                return {}
            state: dict[str, Any] = json.loads(self._states[0][1])
            return state

    def restore(self, states: Mapping[str, Any]) -> None:
        """Gives each what it remembered; one that is new to the run begins with nothing."""
        for name, callback in self._named():
            if name in states:
                callback.load_state_dict(states[name])

    def _remember(self, step: int) -> None:
        state = json.dumps({name: callback.state_dict() for name, callback in self._named()})
        with self._lock:
            if not self._states or self._states[-1][1] != state:
                self._states.append((step, state))

    def _named(self) -> list[tuple[str, Callback]]:
        """The callbacks by class, and by place among those of one class."""
        names: dict[str, int] = {}
        named = []
        for callback in self._callbacks:
            kind = type(callback).__qualname__
            names[kind] = names.get(kind, 0) + 1
            named.append((f"{kind} {names[kind]}", callback))
        return named
