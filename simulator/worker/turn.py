"""What a trainer is told of the user whose turn it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from protos.codec import Array
from scheduler.rules.metrics import Pair
from scheduler.rules.streams import stream_of
from simulator.contracts import Again, Examples


@dataclass(frozen=True)
class OnStep:
    """What an algorithm wants of each step of a training.

    Attributes:
        begin: called before the pass forth with the batch and what goes through it again.
        correct: called before the optimizer's step.
    """

    begin: Callable[[Mapping[str, Any], Again], None] | None = None
    correct: Callable[[], None] | None = None


NOTHING = OnStep()


class Turn:
    """See `trainer.LocalUser`.

    Args:
        uid: of the user.
        date: the day.
        round: of the day.
        key: of its random stream.
        training: fetches its training examples of the day.
        on_step: what is done at each step.
    """

    def __init__(
        self, uid: str, date: str, round: int, key: int, training: Callable[[], Examples],
        on_step: OnStep = NOTHING,
    ) -> None:  # fmt: skip
        self.uid, self.date, self.round = uid, date, round
        self._key, self._training, self._on_step = key, training, on_step
        # Batches begun and optimizer steps so far.
        self.batches = self.steps = 0

    @cached_property
    def rng(self) -> np.random.Generator:
        """The user's own random stream; few trainers ask for it."""
        return stream_of(self._key)

    @cached_property
    def training(self) -> Examples:
        """The user's training examples of the day, without rows if it has none."""
        return self._training()

    def before_batch(self, batch: Mapping[str, Any], again: Again) -> None:
        """A batch is next."""
        self.batches += 1
        if self._on_step.begin is not None:
            self._on_step.begin(batch, again)

    def before_step(self) -> None:
        """The gradients are there, and the optimizer's step is next."""
        self.steps += 1
        if self._on_step.correct is not None:
            self._on_step.correct()


class EvaluatedUser(Turn):
    """See `trainer.EvaluatedUser`; the first arguments are those of `Turn`.

    Args:
        examples: of the test.
        private: its private parameters.
    """

    def __init__(
        self, uid: str, date: str, round: int, key: int, training: Callable[[], Examples], *, examples: Examples,
        private: Mapping[str, Array],
    ) -> None:  # fmt: skip
        super().__init__(uid, date, round, key, training)
        self.examples, self.private = examples, private


class Plays(Protocol):
    """Has the page's trainer play on the model of this shard."""

    def train(
        self, examples: Examples, part: str, epochs: int | None, batch_size: int | None, on_step: OnStep
    ) -> tuple[dict[str, Pair], Turn]:
        """Metrics, and what the trainer was given; `part` tells the trainings of one turn apart."""

    def evaluate(self, examples: Examples, part: str) -> dict[str, Pair]:
        """Metrics of a test."""
