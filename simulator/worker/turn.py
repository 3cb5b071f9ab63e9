"""What a trainer is told of the user whose turn it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np

from protos.codec import Array
from scheduler.rules.streams import stream_of
from simulator.contracts import Examples


class Turn:
    """See `trainer.LocalUser`.

    Args:
        uid: of the user.
        date: the day.
        round: of the day.
        key: of its random stream.
        training: fetches its training examples of the day.
        correct: called before each optimizer step.
    """

    def __init__(
        self, uid: str, date: str, round: int, key: int, training: Callable[[], Examples],
        correct: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self.uid, self.date, self.round = uid, date, round
        self._key, self._training, self._correct = key, training, correct
        # Optimizer steps so far.
        self.steps = 0

    @cached_property
    def rng(self) -> np.random.Generator:
        """The user's own random stream; few trainers ask for it."""
        return stream_of(self._key)

    @cached_property
    def training(self) -> Examples:
        """The user's training examples of the day, without rows if it has none."""
        return self._training()

    def before_step(self) -> None:
        """The gradients are there, and the optimizer's step is next."""
        self.steps += 1
        if self._correct is not None:
            self._correct()


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
