"""The parameters of the best test, in the record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protos.codec import Tensors
from protos.errors import FLError
from scheduler.rules.metrics import mean_metrics
from scheduler.state.rounds import TEST, Decision, RoundRecord
from simulator.callbacks.best import Best, Mode
from simulator.callbacks.callback import CONTINUE, KEEP, Callback, RunInfo
from simulator.npz import write_npz


class BestParameters(Callback):
    """Writes the shared parameters of the best test so far to params/best.npz, and which it was to params/best.json.

    Args:
        metric: of the tests; None for the one that the trainer calls the result.
        mode: whether a larger or a smaller value is better.

    Raises:
        BadInput: an argument that cannot be.
    """

    def __init__(self, metric: str | None = None, mode: Mode = "max") -> None:
        # As decided, and as written: the record is told in another thread, and later.
        self._best, self._written = (Best(type(self).__name__, metric, mode) for _ in range(2))
        self._folder = Path()

    def on_begin(self, run: RunInfo) -> None:
        """Forgets the run before."""
        for best in (self._best, self._written):
            best.begin(run)
        self._folder = run.folder / "params"

    def decide(self, record: RoundRecord) -> Decision:
        """Keeps the parameters of a test that is better than all before."""
        return KEEP if record.phase == TEST and self._best.take(mean_metrics(record.results)) else CONTINUE

    def on_record(self, record: RoundRecord, kept: Tensors | None) -> None:
        """Writes them."""
        if kept is None or record.phase != TEST or not self._written.take(mean_metrics(record.results)):
            return
        write_npz(self._folder / "best.npz", kept)
        at = record.at
        told = {"metric": self._best.metric, "value": self._written.value, "date": at.date, "round": at.step}
        try:
            (self._folder / "best.json").write_text(json.dumps(told) + "\n", encoding="utf-8")
        except OSError as error:
            raise FLError(f"{self._folder / 'best.json'} cannot be written: {error.strerror}") from error

    def state_dict(self) -> Mapping[str, Any]:
        """The best value so far."""
        return {"best": self._best.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from it; its parameters were written before the checkpoint was."""
        self._best.value = self._written.value = state["best"]
