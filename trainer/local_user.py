"""Whose turn it is, and what a turn gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Examples = Mapping[str, npt.NDArray[Any]]
Metrics = dict[str, tuple[float, float]]
# Goes through a batch once more: forth, and back if told so.
Again = Callable[[bool], None]


class LocalUser(Protocol):
    """Whose turn it is.

    Attributes:
        uid: the user.
        date: the day, YYYYMMDD.
        round: of the day, from 1; in an evaluation the rounds trained before it.
        rng: its own random stream, from (seed, date, round, uid).  Paddle's,
            NumPy's and Python's global generators are seeded from it too.
        training: its training examples of the day; in a test without rows if it has none.
    """

    @property
    def uid(self) -> str: ...  # noqa: D102
    @property
    def date(self) -> str: ...  # noqa: D102
    @property
    def round(self) -> int: ...  # noqa: D102
    @property
    def rng(self) -> np.random.Generator: ...  # noqa: D102
    @property
    def training(self) -> Examples: ...  # noqa: D102

    def before_batch(self, batch: Mapping[str, Any], again: Again) -> None:
        """To be called before each batch of a training goes forth: what some algorithms know a batch by.

        Args:
            batch: arrays or tensors by name, of as many rows.
            again: goes through it with the parameters that the model has when it is called, forth and, if its
                argument says so, back, which sets their gradients.
        """

    def before_step(self) -> None:
        """To be called between backward and each optimizer step: here an algorithm corrects gradients."""


class EvaluatedUser(LocalUser, Protocol):
    """A user who is tested with others in one go.

    Attributes:
        examples: of the test.
        private: its private parameters, by name; in their places the model holds NaN.
    """

    @property
    def examples(self) -> Examples: ...  # noqa: D102
    @property
    def private(self) -> Examples: ...  # noqa: D102


class LocalOptimizer(Protocol):
    """What local training asks of an optimizer."""

    def step(self) -> None: ...  # noqa: D102
    def clear_grad(self) -> None: ...  # noqa: D102
