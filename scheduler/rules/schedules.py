"""Schedules: a learning rate by the round of the run.

A schedule is a factor on a rate that is set otherwise, and depends on nothing but the rounds of the run before this
one: so it is the same wherever a user trains, and after a run was resumed.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from protos.errors import BadInput
from scheduler.rules.choices import Registry
from scheduler.rules.server_optimizers import ServerOptimizer
from scheduler.rules.server_rule import AroundRule, Float64
from scheduler.rules.step import Step

SERVER_SCHEDULES: Registry[Schedule] = Registry("--server-schedule", "schedule", short={"by": "factor"})
LR_SCHEDULES: Registry[Schedule] = Registry("--lr-schedule", "schedule", short={"by": "factor"})

Kind = TypeVar("Kind", bound=type)


class Schedule(ABC):
    """A factor by the round of the run.  One of your own is a frozen dataclass with `factor`."""

    @abstractmethod
    def factor(self, step: int) -> float:
        """What a rate is multiplied by, above 0.

        Args:
            step: rounds of the run before this one, from 0 and over all days.
        """

    def at(self, step: int) -> float:
        """The same, held to.

        Raises:
            BadInput: it is not above 0, or not finite.
        """
        factor = float(self.factor(step))
        if not 0 < factor < math.inf:
            raise BadInput(
                f"the schedule {self!r} gives a rate of {factor:g} times its own in round {step + 1} of the run; "
                "it must be above 0: give it more rounds, or a least factor, or the run less"
            )
        return factor


def register_schedule(name: str) -> Callable[[Kind], Kind]:
    """A decorator that puts a schedule under a name, for both rates."""

    def take(kind: Kind) -> Kind:
        return LR_SCHEDULES.register(name)(SERVER_SCHEDULES.register(name)(kind))

    return take


@register_schedule("constant")
@dataclass(frozen=True)
class Constant(Schedule):
    """The rate as it is."""

    def factor(self, step: int) -> float:
        """1."""
        return 1.0


@register_schedule("step")
@dataclass(frozen=True)
class StepSchedule(Schedule):
    """Times a factor after each so many rounds: factor^floor(t / every) in round t, from 0.

    Args:
        every: rounds, at least 1.
        by: the factor, above 0; it is written `factor`.
    """

    every: int
    by: float = 0.1

    def __post_init__(self) -> None:
        _hold_rounds(every=self.every)
        if not 0 < self.by < math.inf:
            raise BadInput(f"factor is {self.by:g}; it must be above 0")

    def factor(self, step: int) -> float:
        """by^floor(t / every)."""
        return float(self.by ** (step // self.every))


@register_schedule("cosine")
@dataclass(frozen=True)
class Cosine(Schedule):
    """Falls as half a cosine: least + (1 - least) (1 + cos(pi t / rounds)) / 2 in round t, from 0; then it is `least`.

    Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", equation (5), without restarts.

    Args:
        rounds: at least 1; a run of more needs a `least` above 0.
        least: from 0 to 1.
    """

    rounds: int
    least: float = 0.0

    def __post_init__(self) -> None:
        _hold_rounds(rounds=self.rounds)
        if not 0 <= self.least <= 1:
            raise BadInput(f"least is {self.least:g}; it must be from 0 to 1")

    def factor(self, step: int) -> float:
        """Half a cosine."""
        if step >= self.rounds:
            return self.least
        return self.least + (1 - self.least) * (1 + math.cos(math.pi * step / self.rounds)) / 2


@register_schedule("warmup")
@dataclass(frozen=True)
class WarmUp(Schedule):
    """Rises in equal steps to the rate itself: (t + 1) / rounds in round t, from 0; then it stays 1.

    Args:
        rounds: at least 1.
    """

    rounds: int

    def __post_init__(self) -> None:
        _hold_rounds(rounds=self.rounds)

    def factor(self, step: int) -> float:
        """A straight line, then 1."""
        return min(1.0, (step + 1) / self.rounds)


class Scheduled(AroundRule):
    """A server optimizer whose rate follows a schedule.

    Args:
        optimizer: with a `learning_rate`.
        schedule: of that.
    """

    def __init__(self, optimizer: ServerOptimizer, schedule: Schedule) -> None:
        super().__init__(optimizer)
        self._optimizer, self._schedule = optimizer, schedule
        self._now: tuple[int, ServerOptimizer] | None = None

    def step(self, x: Float64, mean: Float64, slots: dict[str, Float64], at: Step) -> Float64:  # noqa: D102
        if self._now is None or self._now[0] != at.step:
            self._now = at.step, with_rate(self._optimizer, self._schedule.at(at.step))
        return self._now[1].step(x, mean, slots, at)


def with_rate(optimizer: ServerOptimizer, factor: float) -> ServerOptimizer:
    """The same optimizer with another rate."""
    made = copy.copy(optimizer)
    made.learning_rate = optimizer.learning_rate * factor
    return made


def check_takes_rate(optimizer: Any, written: str) -> None:
    """Holds a server optimizer to its rate.

    Args:
        optimizer: may be a page's own.
        written: the schedule, as it was given.

    Raises:
        BadInput: it has no `learning_rate`, or one that its steps do not depend on.
    """
    who, rate = type(optimizer).__name__, getattr(optimizer, "learning_rate", None)
    begin = f"--server-schedule {written} would do nothing"
    if not isinstance(rate, float | int):
        raise BadInput(f"{begin}: {who} has no learning_rate that it could change; leave it out")
    at = Step(0, "20200101", 1, 0, 1, 1, array="trial")

    # Of all sizes: a rule may bound its steps.
    mean = np.array([sign * 10.0**-size for size in range(9) for sign in (1, -1)])

    def tried(one: ServerOptimizer) -> Float64:
        slots = {slot: np.full(mean.size, one.initial_slot(slot)) for slot in one.slots}
        return np.array(one.step(np.zeros(mean.size), mean.copy(), slots, at))

    try:
        same = np.array_equal(tried(with_rate(optimizer, 1.0)), tried(with_rate(optimizer, 0.5)))
    except Exception as error:
        raise BadInput(f"{begin}: a step of {who} cannot be tried with another rate ({error}); leave it out") from error
    if same:
        raise BadInput(f"{begin}: the steps of {who} do not depend on its learning_rate; leave it out")


def _hold_rounds(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise BadInput(f"{name} is {value}; it must be 1 or more")
