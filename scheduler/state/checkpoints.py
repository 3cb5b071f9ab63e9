"""What a checkpoint holds of the scheduler's state, and when one is due."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from protos.codec import Tensors

# A crash costs minutes, and checkpoints at most a fiftieth of the time.
PAUSE_SECONDS = 60.0
SHARE_OF_TIME = 1 / 50

# How far each file of the record goes; what the listener makes of it.
Marks: TypeAlias = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Segment:
    """A file of private parameters, in a simulator's own output folder.

    Attributes:
        name: of the file.
        size: in bytes.
        digest: of its content.
    """

    name: str
    size: int
    digest: bytes


@dataclass(frozen=True)
class Snapshot:
    """The scheduler's state between two rounds.

    Attributes:
        step: rounds of the run that are done, at least 1.
        date: the day of the last of them.
        params: copies of the shared parameters.
        optimizer: copies of the server optimizer's state.
        private: names of the private parameters, sorted.
        tests: whether a test after that round was asked for.
        frozen: digest of the frozen parameters, which are made anew; "" without any.
    """

    step: int
    date: str
    params: Tensors
    optimizer: Tensors
    private: tuple[str, ...]
    tests: bool = False
    frozen: str = ""


def copy_into(room: Tensors, values: Tensors) -> None:
    """Makes `room` a copy of `values`, in the memory it has where that fits."""
    for name, value in values.items():
        held = room.get(name)
        if held is None or held.shape != value.shape or held.dtype != value.dtype:
            room[name] = value.copy()
        else:
            np.copyto(held, value)
    for name in room.keys() - values.keys():
        del room[name]


@dataclass(frozen=True)
class Offer:
    """A checkpoint a run may go on from.

    Attributes:
        step: rounds that were done.
        date: the day of the last of them.
        segments: files of private parameters it needs; later ones win.
    """

    step: int
    date: str
    segments: tuple[Segment, ...]


class Schedule:
    """Says after which rounds a checkpoint is made.

    Args:
        every: rounds between two; None for by time, 0 for never.
        clock: seconds; replaced in tests.
    """

    def __init__(self, every: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.every, self._clock = every, clock
        self._next = clock() + PAUSE_SECONDS
        self._began = 0.0

    def due(self, step: int) -> bool:
        """Whether one is made when `step` rounds are done; one that is due has begun."""
        due = self._clock() >= self._next if self.every is None else self.every > 0 and step % self.every == 0
        if due:
            self._began = self._clock()
        return due

    def finished(self) -> None:
        """The one that was due is on disk."""
        now = self._clock()
        self._next = now + max(PAUSE_SECONDS, (now - self._began) / SHARE_OF_TIME)
