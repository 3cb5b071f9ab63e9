"""How the server moves a group of arrays by the mean of what users have sent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from scheduler.rules.step import Step

Float64: TypeAlias = npt.NDArray[np.float64]


class ServerRule(ABC):
    """One step of the server, elementwise and in float64, so that it gives the same bits however the arrays are cut.

    It keeps nothing by itself: numbers that go on from step to step are its slots, which the
    scheduler holds and checkpoints keep.
    """

    # State per element, by name.
    slots: ClassVar[tuple[str, ...]] = ()
    # Whether an element whose mean is 0 stays as it is, so that untouched rows can be left out.
    keeps_untouched: ClassVar[bool] = False

    def initial_slot(self, slot: str) -> float:
        """The value a slot starts from."""
        return 0.0

    @abstractmethod
    def step(self, x: Float64, mean: Float64, slots: dict[str, Float64], at: Step) -> Float64:
        """The new value of a block of one array.

        Args:
            x: float64 (n,), the array; may be overwritten.
            mean: float64 (n,), the mean of what users have sent; may be overwritten.
            slots: float64 (n,) a slot, updated in place.
            at: the round.

        Returns:
            float64 (n,).
        """


class AroundRule(ServerRule):
    """Another rule with something changed of what it is given; a subclass writes `step`.

    Args:
        rule: whose slots it has.
    """

    def __init__(self, rule: ServerRule) -> None:
        self.rule = rule
        self.slots, self.keeps_untouched = rule.slots, rule.keeps_untouched  # type: ignore[misc]

    def initial_slot(self, slot: str) -> float:  # noqa: D102
        return self.rule.initial_slot(slot)


class MeanOfBuffers(ServerRule):
    """x <- x + mean: what has no gradient, running variances for example, becomes the mean of the users' own.

    A server optimizer's step may be longer than the mean, or another way, and could make a variance negative.
    """

    keeps_untouched: ClassVar[bool] = True

    def step(self, x: Float64, mean: Float64, slots: dict[str, Float64], at: Step) -> Float64:  # noqa: D102
        mean += x
        return mean
