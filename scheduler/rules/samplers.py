"""Who trains in a round and who is tested.

A cohort is a pure function of the day's users and (seed, date, round): the
same on any number of ranks and shards, and known without running anything.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from protos.errors import BadInput, NotFound
from scheduler.rules.choices import Registry
from scheduler.rules.streams import stream, uid_hash


@dataclass(frozen=True)
class UserTable:
    """A day's users.

    Attributes:
        uids: sorted.
        counts: int64 (len(uids),), examples of each.
    """

    uids: tuple[str, ...]
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> UserTable:
        """The table of a uid -> examples mapping."""
        uids = tuple(sorted(counts))
        return cls(uids, np.fromiter((counts[u] for u in uids), np.int64, len(uids)))

    def count(self, uid: str) -> int:
        """Examples of one user.

        Raises:
            NotFound: the uid is not in the table.
        """
        return int(self.counts[self.place(uid)])

    def place(self, uid: str) -> int:
        """Where a user is in the table; raises as `count`."""
        i = bisect_left(self.uids, uid)
        if i == len(self.uids) or self.uids[i] != uid:
            raise NotFound(f"unknown uid {uid!r}")
        return i

    def qualifying(self, min_ins_num: int) -> list[str]:
        """The uids with at least `min_ins_num` examples, sorted."""
        return [self.uids[i] for i in np.flatnonzero(self.counts >= min_ins_num)]


@dataclass(frozen=True)
class Round:
    """A round: of a day, and of the run (`step` counts from 0 over all days)."""

    seed: int
    date: str
    round: int
    step: int


class Sampler(ABC):
    """Chooses a round's cohort; replace it by any object with these two methods."""

    name: ClassVar[str]

    @abstractmethod
    def sample(self, users: UserTable, at: Round) -> list[str]:
        """The cohort, without repetition; its order is the order of `--mode centralized`."""

    def check(self, users: UserTable, date: str, steps: range) -> None:
        """Raises BadInput if a round of the day could not be sampled."""
        if steps:
            self.sample(users, Round(0, date, 0, steps.start))


SAMPLERS: Registry[Sampler] = Registry("--sampler", "sampler")


@SAMPLERS.register("uniform")
@dataclass(frozen=True)
class UniformSampler(Sampler):
    """`sample_num` users, uniform without replacement over those with enough examples."""

    name: ClassVar[str] = "uniform"
    sample_num: int = 10
    min_ins_num: int = 1

    def __post_init__(self) -> None:
        """Raises BadInput if a number is below 1."""
        _hold_from_1(sample_num=self.sample_num, min_ins_num=self.min_ins_num)

    def sample(self, users: UserTable, at: Round) -> list[str]:
        """As the class says.

        Raises:
            BadInput: fewer than `sample_num` users qualify.
        """
        able = users.qualifying(self.min_ins_num)
        if len(able) < self.sample_num:
            raise BadInput(
                f"date {at.date}: --sample-num {self.sample_num} is more than the {len(able)} users with at least "
                f"--min-ins-num {self.min_ins_num} examples (of {len(users.uids)}); lower one of the two"
            )
        chosen = stream(at.seed, "cohort", at.date, at.round).choice(len(able), self.sample_num, replace=False)
        return [able[i] for i in chosen]


@SAMPLERS.register("hash")
@dataclass(frozen=True)
class HashSampler(Sampler):
    """The same `percent` of all users in every round, by a hash of their uid."""

    name: ClassVar[str] = "hash"
    percent: float = 1.0
    min_ins_num: int = 1

    def __post_init__(self) -> None:
        """Raises BadInput if a number cannot be."""
        _hold_from_1(min_ins_num=self.min_ins_num)
        if not 0 < self.percent <= 100:
            raise BadInput(f"percent is {self.percent}; it must be above 0, and 100 at most")

    def sample(self, users: UserTable, at: Round) -> list[str]:
        """As the class says.

        Raises:
            BadInput: nobody's hash falls within.
        """
        limit = self.percent / 100 * 2.0**64
        chosen = [uid for uid in users.qualifying(self.min_ins_num) if uid_hash(uid) < limit]
        if not chosen:
            raise BadInput(
                f"date {at.date}: --hash-percent {self.percent} chooses none of the {len(users.uids)} users "
                f"(--min-ins-num {self.min_ins_num}); raise it"
            )
        return chosen


@SAMPLERS.register("fixed", make="from_file")
@dataclass(frozen=True)
class FixedSampler(Sampler):
    """Replays the cohorts of a plan: the run's round `step` trains `plan[step]`."""

    name: ClassVar[str] = "fixed"
    plan: tuple[tuple[str, ...], ...]
    # For errors; where a plan lies makes no difference.
    source: str = field(default="the plan", compare=False)

    @classmethod
    def from_file(cls, plan: Path) -> FixedSampler:
        """Reads a `cohorts.json`: a list of lists of uids.

        Raises:
            BadInput: it cannot be read, is not such a list, or a cohort is empty or repeats a uid.
        """
        try:
            cohorts = json.loads(plan.read_text(encoding="utf-8"))
        except OSError as error:
            raise BadInput(f"--plan {plan}: {error.strerror}") from error
        except ValueError as error:
            raise BadInput(f"--plan {plan}: not JSON ({error})") from error
        except RecursionError as error:
            raise BadInput(f"--plan {plan}: nested too deeply; expected a list of lists of uids") from error
        if not isinstance(cohorts, list) or not cohorts:
            raise BadInput(f"--plan {plan}: expected a list of lists of uids, one list a round")
        for i, cohort in enumerate(cohorts):
            if not isinstance(cohort, list) or not cohort:
                raise BadInput(f"--plan {plan}: cohort {i} is not a list of uids with at least one")
            odd = next((uid for uid in cohort if not isinstance(uid, str)), None)
            if odd is not None or None in cohort:
                raise BadInput(f"--plan {plan}: cohort {i} is not a list of uids: {_short(odd)} is no text")
            if len(set(cohort)) != len(cohort):
                twice = next(uid for uid in cohort if cohort.count(uid) > 1)
                raise BadInput(f"--plan {plan}: cohort {i} names uid {twice!r} twice")
        return cls(tuple(tuple(cohort) for cohort in cohorts), str(plan))

    def sample(self, users: UserTable, at: Round) -> list[str]:
        """The plan's cohort of `at.step`."""
        return list(self.plan[at.step])

    def check(self, users: UserTable, date: str, steps: range) -> None:
        """Every cohort of the day must be there and every uid of it known.

        Raises:
            BadInput: with the number of the cohort and the uid.
        """
        if steps.stop > len(self.plan):
            raise BadInput(
                f"--plan {self.source} has {len(self.plan)} cohorts, the run needs {steps.stop}; lower --rounds"
            )
        known = set(users.uids)
        for step in steps:
            for uid in self.plan[step]:
                if uid not in known:
                    raise BadInput(f"--plan {self.source}: cohort {step} names unknown uid {uid!r} (date {date})")


class TestSampler(ABC):
    """Chooses the users that are tested."""

    __test__ = False  # not a pytest class
    name: ClassVar[str]

    @abstractmethod
    def sample(self, users: UserTable, seed: int, date: str) -> list[str]:
        """The users to test on `date`, sorted."""


TEST_SAMPLERS: Registry[TestSampler] = Registry("--test-sampler", "test sampler")


@TEST_SAMPLERS.register("all")
@dataclass(frozen=True)
class AllTestSampler(TestSampler):
    """Every user."""

    name: ClassVar[str] = "all"

    def sample(self, users: UserTable, seed: int, date: str) -> list[str]:
        """As the class says."""
        return list(users.uids)


@TEST_SAMPLERS.register("one-percent")
@dataclass(frozen=True)
class OnePercentTestSampler(TestSampler):
    """One per cent of the users, at least one, the same in every test of a day."""

    name: ClassVar[str] = "one-percent"

    def sample(self, users: UserTable, seed: int, date: str) -> list[str]:
        """As the class says."""
        size = min(len(users.uids), max(1, round(len(users.uids) / 100)))
        return sorted(users.uids[i] for i in stream(seed, "test", date).choice(len(users.uids), size, replace=False))


@TEST_SAMPLERS.register("none")
@dataclass(frozen=True)
class NoTestSampler(TestSampler):
    """Nobody: no test is run and no test data is read."""

    name: ClassVar[str] = "none"

    def sample(self, users: UserTable, seed: int, date: str) -> list[str]:
        """As the class says."""
        return []


def _hold_from_1(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise BadInput(f"{name} is {number}; it must be 1 at least")


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def check_cohort(cohort: Sequence[str], users: Iterable[str], sampler: Sampler, at: Round) -> None:
    """Holds a sampler, the user's own included, to its contract.

    Raises:
        BadInput: the cohort is empty, repeats a uid or names an unknown one.
    """
    where = f"date {at.date}, round {at.round}: sampler {type(sampler).__name__}"
    if not cohort:
        raise BadInput(f"{where} chose nobody")
    if len(set(cohort)) != len(cohort):
        raise BadInput(f"{where} chose a uid twice: {next(u for u in cohort if list(cohort).count(u) > 1)!r}")
    unknown = set(cohort) - set(users)
    if unknown:
        raise BadInput(f"{where} chose unknown uid {min(unknown)!r}")
