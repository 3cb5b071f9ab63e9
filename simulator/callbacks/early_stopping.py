"""Early stopping: a run is complete when a metric of its tests gets no better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from protos.errors import BadInput
from scheduler.rules.metrics import mean_metrics
from scheduler.state.rounds import TEST, Decision, RoundRecord
from simulator.callbacks.best import Best, Mode
from simulator.callbacks.callback import CONTINUE, Callback, RunInfo, stop


class EarlyStopping(Callback):
    """Has the run stop at the test after which a metric has not been better for `patience` tests.

    The parameters are then those of that test: equal to the bit to a run of so many rounds.
    Tests come at the end of each day, and during it with `--eval-every`.

    Args:
        metric: of the tests; None for the one that the trainer calls the result.
        patience: tests without a better value.
        mode: whether a larger or a smaller value is better.
        min_delta: by how much it must be better to count.

    Raises:
        BadInput: an argument that cannot be.
    """

    def __init__(
        self, metric: str | None = None, patience: int = 3, mode: Mode = "max", min_delta: float = 0.0
    ) -> None:
        if patience < 1:
            raise BadInput(f"EarlyStopping(patience={patience!r}): at least 1")
        self.patience = patience
        self._best = Best(type(self).__name__, metric, mode, min_delta)
        self._worse = 0

    def on_begin(self, run: RunInfo) -> None:
        """Forgets the run before."""
        self._best.begin(run)
        self._worse = 0

    def decide(self, record: RoundRecord) -> Decision:
        """Counts the tests since the best one."""
        if record.phase != TEST:
            return CONTINUE
        self._worse = 0 if self._best.take(mean_metrics(record.results)) else self._worse + 1
        if self._worse < self.patience:
            return CONTINUE
        tests = "1 test" if self.patience == 1 else f"{self.patience} tests"
        best, metric = self._best.value, self._best.metric
        said = "has been no number" if best is None else f"has not been better than {best:g}"
        return stop(f"EarlyStopping: {metric} {said} for {tests}")

    def state_dict(self) -> Mapping[str, Any]:
        """The best value so far, and the tests since."""
        return {"best": self._best.value, "worse": self._worse}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on counting."""
        self._best.value, self._worse = state["best"], state["worse"]
