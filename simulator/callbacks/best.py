"""The best value of a metric so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

from protos.errors import BadInput
from simulator.callbacks.callback import RunInfo

Mode: TypeAlias = Literal["max", "min"]


class Best:
    """Compares the values of a metric as they come.

    Args:
        who: class of the callback, for errors.
        metric: name of the metric; None for the one that the trainer calls the result.
        mode: whether a larger or a smaller value is better.
        min_delta: by how much a value must be better to count.

    Raises:
        BadInput: an argument that cannot be.
    """

    def __init__(self, who: str, metric: str | None, mode: Mode, min_delta: float = 0.0) -> None:
        if mode not in get_args(Mode):
            raise BadInput(f"{who}(mode={mode!r}): it is 'max' or 'min'")
        if not 0 <= min_delta < math.inf:
            raise BadInput(f"{who}(min_delta={min_delta!r}): it must be finite and not negative")
        self._who, self._wanted, self._sign, self._min_delta = who, metric, 1 if mode == "max" else -1, min_delta
        self.metric = metric
        # None before the first: infinity is not what JSON holds.
        self.value: float | None = None

    def begin(self, run: RunInfo) -> None:
        """Forgets the run before.

        Raises:
            BadInput: no metric was named, and the trainer names none.
        """
        self.metric, self.value = self._wanted or run.result, None
        if self.metric is None:
            raise BadInput(f"{self._who} needs the name of a metric: the trainer has no result")

    def take(self, metrics: Mapping[str, float]) -> bool:
        """Whether the metric is better than ever; NaN never is.

        Raises:
            BadInput: there is no such metric.
        """
        assert self.metric is not None, "begin comes first"
        if self.metric not in metrics:
            raise BadInput(f"{self._who}: tests have no metric {self.metric!r}; they have {', '.join(sorted(metrics))}")
        value = metrics[self.metric]
        better = self.value is None or self._sign * (value - self.value) > self._min_delta
        if math.isnan(value) or not better:
            return False
        self.value = value
        return True
