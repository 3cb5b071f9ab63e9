"""The CNN task in a form that needs NumPy only: made-up images, and how a step is timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from workload import report

CLASSES, SIDE = 62, 28
BATCH, LEARNING_RATE, MAX_GRAD_NORM = 10, 0.01, 5.0
# Steps that are timed together, and before them steps that are not timed.
STEPS, WARM_UP = 20, 20

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def make_images() -> tuple[Images, Labels]:
    """Images (STEPS x BATCH, 1, 28, 28) in [0, 1], and their classes."""
    rng = np.random.default_rng(0)
    count = STEPS * BATCH
    return rng.random((count, 1, SIDE, SIDE), np.float32), rng.integers(0, CLASSES, count)


def time_steps(passes: int, train: Callable[[], None], path: Path) -> None:
    """Leaves the seconds a step of each pass in a file.

    Args:
        passes: how many.
        train: makes STEPS steps.
        path: of the file.
    """
    for _ in range(-(-WARM_UP // STEPS)):
        train()
    seconds = []
    for _ in range(passes):
        # Of this one thread: what other programs use does not count.
        began = time.process_time()
        train()
        seconds.append((time.process_time() - began) / STEPS)
    report(path, seconds)
