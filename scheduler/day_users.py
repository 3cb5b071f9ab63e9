"""The users of the days, as the simulators tell them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from protos.errors import AlreadyDone, BadInput, NotFound
from scheduler.rounds import TEST, TRAIN
from scheduler.samplers import UserTable

Day = tuple[str, str]  # date and split


@dataclass(frozen=True)
class Told:
    """What one simulator tells of a day's users.

    Attributes:
        counts: examples it has read, by uid.
        weights: of those whose weight is not the number of these examples.
        joined: of users that its data server owns and whose examples are of several files: the weight of all of them.
    """

    counts: Mapping[str, int]
    weights: Mapping[str, float] = field(default_factory=dict)
    joined: Mapping[str, float] = field(default_factory=dict)


@dataclass
class _Merged:
    """What all simulators have told of a day so far; `several`: users that more than one has read."""

    counts: dict[str, int] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    joined: dict[str, float] = field(default_factory=dict)
    several: set[str] = field(default_factory=set)

    def with_(self, told: Told) -> _Merged:
        """The same and what one more has told."""
        counts = dict(self.counts)
        for uid, count in told.counts.items():
            counts[uid] = counts.get(uid, 0) + count
        several = self.several | (self.counts.keys() & told.counts.keys())
        return _Merged(counts, {**self.weights, **told.weights}, {**self.joined, **told.joined}, several)


@dataclass
class DayUsers:
    """Which users each day and split has; complete when every simulator has told what it has read.

    Attributes:
        simulators: how many there are.
    """

    simulators: int
    _told: dict[Day, set[int]] = field(default_factory=dict)
    _merged: dict[Day, _Merged] = field(default_factory=dict)
    _tables: dict[Day, UserTable] = field(default_factory=dict)

    @property
    def begun(self) -> bool:
        """Whether any simulator has told anything."""
        return bool(self._told)

    def check_teller(self, rank: int, date: str, split: str) -> None:
        """Whether a simulator may tell its users of a day.

        Raises:
            BadInput: an unknown split.
            AlreadyDone: it has told them.
        """
        if split not in (TRAIN, TEST):
            raise BadInput(f"split {split!r} is neither {TRAIN!r} nor {TEST!r}")
        if rank in self._told.get((date, split), ()):
            raise AlreadyDone(f"rank {rank} has already told its users of {date}, {split}")

    def add(self, rank: int, date: str, split: str, new: Told, check: Callable[[UserTable], None]) -> bool:
        """Takes what one simulator has read of a day.

        Args:
            rank: the simulator.
            date: the day.
            split: "train" or "test".
            new: what it has read.
            check: of the whole day, with the last report; may refuse it.

        Returns:
            Whether that was the last report.

        Raises:
            AlreadyDone, BadInput: and nothing has changed.
        """
        self.check_teller(rank, date, split)
        empty = [uid for uid, count in new.counts.items() if count < 1]
        if empty:
            raise BadInput(f"date {date}, {split}: uid {empty[0]!r} has no examples")
        day = (date, split)
        told = self._told.get(day, set())
        merged = self._merged.get(day, _Merged()).with_(new)
        complete = len(told) + 1 == self.simulators
        if complete:
            table = _table(merged, date, split)
            check(table)
            self._tables[day] = table
            self._merged.pop(day, None)
        else:
            self._merged[day] = merged
        self._told[day] = {*told, rank}
        return complete

    def ready(self, date: str, split: str) -> bool:
        """Whether every simulator has told its users of the day."""
        return (date, split) in self._tables

    def table(self, date: str, split: str) -> UserTable:
        """All users of a day.

        Raises:
            NotFound: they are not known.
        """
        table = self._tables.get((date, split))
        if table is None:
            raise NotFound(f"no {split} users are known for date {date!r}")
        return table


def _table(merged: _Merged, date: str, split: str) -> UserTable:
    """All users of a day, when all simulators have told theirs."""
    if not merged.counts:
        raise BadInput(f"date {date}: no users with {split} data")
    unknown = merged.joined.keys() - merged.counts.keys()
    if unknown:
        raise BadInput(f"date {date}, {split}: uid {min(unknown)!r} was weighed and nobody has read it")
    unweighed = merged.several - merged.joined.keys()
    if split == TRAIN and unweighed:
        raise BadInput(
            f"date {date}, {split}: uid {min(unweighed)!r} was read by several simulators, and its owner has not told "
            "the weight of all its examples"
        )
    return UserTable.of(merged.counts, {**merged.weights, **merged.joined})
