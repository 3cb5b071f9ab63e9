"""Whose turn it is, and what a turn gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Examples = Mapping[str, npt.NDArray[Any]]
Metrics = dict[str, tuple[float, float]]


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
