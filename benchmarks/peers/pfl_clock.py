"""When the rounds of pfl-research end."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import workload
from pfl.callback.base import TrainingProcessCallback
from pfl.metrics import Metrics
from torch import distributed


class Clock(TrainingProcessCallback):
    """Notes when each round ends."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    def after_central_iteration(self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int) -> Any:
        """Called by pfl-research; never stops the training."""
        self._ends.append(time.perf_counter())
        return False, Metrics()

    def report(self, seconds: Path) -> None:
        """Hands the seconds of the rounds to the benchmark, from the first process only; the last call of all."""
        if os.environ["RANK"] == "0":
            workload.report(seconds, np.diff(self._ends).tolist())
        if distributed.is_initialized():
            # A process that leaves while another is still connected now and then brings it down.
            distributed.barrier()
            distributed.destroy_process_group()
