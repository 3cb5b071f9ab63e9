"""What a run does, in which order: the one place that decides what comes next.

A plan is a value, made of the days of all simulators and a few settings.  It is a
row of stages; simulators ask for the next of them, and do what they are told:

    Load(d1, train)  Load(d2, test)  Train(d1: rounds 1 to 5)  Evaluate(d2 after 5)  Train(d1: 6 to 10)
    Evaluate(d2 after 10)  Clear(d1, train)  Clear(d2, test)  Load(d2, train)  ...  End

Where a simulator is in it is told by a number: how many rounds of the run are done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

from protos.errors import BadInput, WrongState
from scheduler.rules.samplers import Round
from scheduler.state.rounds import TEST, TRAIN

# Stages that are told at once, so that a plan of a million tests needs no message of a million stages.
MOST_STAGES = 64


@dataclass(frozen=True)
class Load:
    """The data of a date and split ("train" or "test") is read and handed to its owners."""

    date: str
    split: str


@dataclass(frozen=True)
class Train:
    """Rounds of a day, one after another with nothing between them.

    Attributes:
        date: the day.
        first: number of the first of them, from 1 on each day.
        step: the same, counted over the run from 0.
        rounds: how many, at least 1.
        left: rounds of the day that come after these.
        ahead: whether the next of them is certain while one is on, so that shards may begin with it by themselves.
    """

    date: str
    first: int
    step: int
    rounds: int
    left: int = 0
    ahead: bool = True

    def at(self, place: int, seed: int) -> Round:
        """One of the rounds, counted from 0, of a run with this seed."""
        return Round(seed, self.date, self.first + place, self.step + place)


@dataclass(frozen=True)
class Evaluate:
    """A test.

    Attributes:
        date: whose test data.
        step: rounds of the run before it.
        day: whose training data the users have, for what they do before they are tested.
    """

    date: str
    step: int
    day: str


@dataclass(frozen=True)
class Clear:
    """The data of a date and split is needed no more."""

    date: str
    split: str


@dataclass(frozen=True)
class End:
    """All is done."""


Stage: TypeAlias = Load | Train | Evaluate | Clear | End


@dataclass(frozen=True)
class DayPlan:
    """One day of training.

    Attributes:
        date: the day that is trained.
        test_date: the day whose test data follows, before anything is trained on it; None for no test.
    """

    date: str
    test_date: str | None


def plan_days(days: Sequence[str], *, train_last_day: bool, test: bool) -> tuple[DayPlan, ...]:
    """What is trained and what is tested.

    Each day is tested before it is trained on, so after a day's training comes the
    test of the day after.  The last day is only tested unless asked; a single day is
    trained and tested on its own test files.
    """
    if len(days) == 1:
        return (DayPlan(days[0], days[0] if test else None),)
    plans = [DayPlan(day, after if test else None) for day, after in pairwise(days)]
    if train_last_day:
        plans.append(DayPlan(days[-1], None))
    return tuple(plans)


@dataclass(frozen=True)
class Plan:
    """All that a run does.

    Attributes:
        days: of training, in order.
        rounds: of each day.
        eval_every: rounds between two tests of a day, beside the one at its end; 0 for that one alone.
        start: rounds that are done already: the run goes on from there.
        flexible: whether tests may be asked for while the run goes (`ask_test`).
        asked: after how many rounds of the run such tests are.
    """

    days: tuple[DayPlan, ...]
    rounds: int
    eval_every: int = 0
    start: int = 0
    flexible: bool = False
    asked: frozenset[int] = frozenset()

    # -- what comes next -------------------------------------------------------

    def after(self, step: int) -> Iterator[Stage]:
        """What comes when `step` rounds are done, and all that comes before the test that may follow them.

        Where the run starts, or goes on, it begins with loading what is needed of that day.
        """
        number = self._day_before(step)
        for place, day in enumerate(self.days[number:], start=number):
            first = place * self.rounds
            done = step - first if place == number else 0
            if place > number or step == self.start:
                yield from self._loads(day)
            yield from self._plays(day, first, done)
            yield Clear(day.date, TRAIN)
            if day.test_date is not None:
                yield Clear(day.test_date, TEST)
        yield End()

    def next_stages(self, step: int) -> list[Stage]:
        """The first of `after`: up to the end, or to rounds after which to ask again."""
        told: list[Stage] = []
        for stage in self.after(step):
            told.append(stage)
            if len(told) >= MOST_STAGES and isinstance(stage, Train):
                break
        return told

    def _loads(self, day: DayPlan) -> Iterator[Stage]:
        if self.rounds:
            # Where all rounds are done, for the test: users may train on it before they are tested.
            yield Load(day.date, TRAIN)
        if day.test_date is not None:
            # Now and not after the training: a mistake in it must not cost a day of rounds.
            yield Load(day.test_date, TEST)

    def _plays(self, day: DayPlan, first: int, done: int) -> Iterator[Stage]:
        """The rounds of a day of which so many are done, and the tests between them and after."""
        while True:
            if day.test_date is not None and self._is_test_due(first + done, done):
                yield Evaluate(day.test_date, first + done, day.date)
            if done == self.rounds:
                return
            end = self.rounds if day.test_date is None else self._next_test(first, done)
            rounds, left = end - done, self.rounds - end
            yield Train(day.date, done + 1, first + done, rounds, left, ahead=not self.flexible)
            done = end

    def _is_test_due(self, step: int, done: int) -> bool:
        """Whether a day that has a test is tested after `done` of its rounds, `step` of the run."""
        every = bool(self.eval_every and done and done % self.eval_every == 0)
        # The end of a day is the beginning of the next one, and not tested again there.
        asked = step in self.asked and (done > 0 or step == 0)
        return done == self.rounds or every or asked

    def _next_test(self, first: int, done: int) -> int:
        """After how many rounds of the day comes the next test, when `done` are done."""
        ends = [self.rounds, *(step - first for step in self.asked if step - first > done)]
        if self.eval_every:
            ends.append((done // self.eval_every + 1) * self.eval_every)
        return min(ends)

    def _day_before(self, step: int) -> int:
        """The number of the day of the last of so many rounds; the first day if there is none."""
        return max(0, step - 1) // max(1, self.rounds)

    # -- what belongs where ----------------------------------------------------

    @property
    def steps(self) -> int:
        """Rounds of the whole run."""
        return len(self.days) * self.rounds

    def day_steps(self, step: int) -> range:
        """The rounds of the run that are of the same day as round `step`."""
        first = step // max(1, self.rounds) * self.rounds
        return range(first, first + self.rounds)

    def due_on(self, date: str, step: int) -> range:
        """The rounds of a date that are still to come when `step` rounds of the run are done."""
        for place, day in enumerate(self.days):
            if day.date == date:
                first = place * self.rounds
                return range(max(step, first), max(step, first + self.rounds))
        return range(0)

    def check_rounds(self, at: Round, rounds: int) -> None:
        """Whether these are rounds of the plan.

        Args:
            at: the first of them.
            rounds: how many; they must be of one day.

        Raises:
            WrongState: they are not.
        """
        steps = self.day_steps(at.step)
        last = at.step + rounds - 1
        if at.step < self.steps and at.round == at.step - steps.start + 1 and last in steps:
            date = self.days[at.step // self.rounds].date
            if at.date == date:
                return
            raise WrongState(f"date {at.date}, round {at.round} was asked for, the day of round {at.step} is {date}")
        raise WrongState(
            f"date {at.date}, round {at.round} and {rounds - 1} after it were asked for as round {at.step} of the "
            f"run, with {self.rounds} rounds a day"
        )

    def tests(self, step: int) -> tuple[str, ...]:
        """The dates that are tested when `step` rounds are done; without any training they are those of all days."""
        dates = []
        for stage in self.after(step):
            if isinstance(stage, Evaluate):
                dates.append(stage.date)
            elif isinstance(stage, Train):
                break
        return tuple(dates)

    def has_test(self, step: int) -> bool:
        """Whether a test can be asked for after `step` rounds: the day has one at its end."""
        return self.days[self._day_before(step)].test_date is not None

    # -- another plan ----------------------------------------------------------

    def check_resumed(self, step: int, date: str) -> None:
        """Whether a checkpoint can be of this plan.

        Args:
            step: rounds that were done.
            date: the day of the last of them.

        Raises:
            BadInput: that day has another date here.
        """
        number = self._day_before(step)
        there = self.days[number].date if number < len(self.days) else "none"
        if there != date:
            raise BadInput(
                f"--resume: the checkpoint is of date {date}, day {number + 1} of the run; the data has {there} there: "
                "give the data the run began with"
            )

    def go_on(self, step: int, *, tests: bool = False) -> Plan:
        """The plan of a run that goes on when so many rounds are done, and a test after them was asked for or not."""
        return replace(self, start=step, asked=self.asked | {step} if tests else self.asked)

    def ask_test(self, step: int) -> Plan:
        """The plan with a test after `step` rounds, on the data that the test of that day is on.

        Raises:
            WrongState: the plan was not made for it, or that day has no test.
        """
        if not self.flexible:
            raise WrongState("a test was asked for in a run whose plan is fixed")
        if not self.has_test(step):
            date = self.days[self._day_before(step)].date
            raise WrongState(f"a test was asked for after {step} rounds, but date {date} has none after it")
        return replace(self, asked=self.asked | {step})
