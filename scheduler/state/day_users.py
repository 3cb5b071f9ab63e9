"""The users of the days, as the simulators tell them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from protos.errors import AlreadyDone, BadInput, NotFound, WrongState
from scheduler.rules.held_out import HeldOut
from scheduler.rules.samplers import UserTable
from scheduler.rules.streams import owner_of
from scheduler.state.bounds import check_weight
from scheduler.state.read_users import ReadUsers
from scheduler.state.rounds import TEST, TRAIN

Day = tuple[str, str]  # date and split


@dataclass
class _Weights:
    """Of a day's users with training data.

    Attributes:
        values: float64, one for each user of the table; NaN where it is not known.
        missing: users whose weight is not known, by the simulator that keeps them.
    """

    values: npt.NDArray[np.float64]
    missing: dict[int, frozenset[str]]


@dataclass
class DayUsers:
    """Which users each day and split has; complete when every simulator has told what it has read.

    A user's weight is a function of all its examples.  Who has read all of them tells the
    weight with their number.  If they came in several pieces, nobody has, and the simulator
    that keeps the user is asked for the weight when all have told what they have read.

    Attributes:
        ranks: of the simulators, in order.
        weighs: whether users with training data have weights.
        held_out: which users never train, if some are held out.
    """

    ranks: Sequence[int]
    weighs: bool = True
    held_out: HeldOut | None = None
    _told: dict[Day, set[int]] = field(default_factory=dict)
    _read: dict[Day, ReadUsers] = field(default_factory=dict)
    _tables: dict[Day, UserTable] = field(default_factory=dict)
    # Of days with users that are held out: the others, and those.
    _parts: dict[Day, tuple[UserTable, UserTable]] = field(default_factory=dict)
    _weights: dict[str, _Weights] = field(default_factory=dict)

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

    def add(self, rank: int, date: str, split: str, users: ReadUsers, check: Callable[[UserTable], None]) -> bool:
        """Takes what one simulator has read of a day.

        Args:
            rank: the simulator.
            date: the day.
            split: "train" or "test".
            users: what it has read.
            check: of all users of the day that are not held out, with the last report; may refuse it.

        Returns:
            Whether that was the last report.

        Raises:
            AlreadyDone, BadInput: and nothing has changed.
        """
        self.check_teller(rank, date, split)
        empty = [uid for uid, count in users.counts.items() if count < 1]
        if empty:
            raise BadInput(f"date {date}, {split}: uid {empty[0]!r} has no examples")
        weighs = self.weighs and split == TRAIN
        if users.weights and not weighs:
            raise BadInput(f"date {date}, {split}: uid {next(iter(users.weights))!r} came with a weight; none has one")
        day = (date, split)
        told = self._told.get(day, set())
        before = self._read.get(day, ReadUsers())
        merged = ReadUsers(dict(before.counts), dict(before.weights))
        merged.merge(users)
        complete = len(told) + 1 == len(self.ranks)
        if complete:
            table = UserTable.of(merged.counts)
            if not table.uids:
                raise BadInput(f"date {date}: no users with {split} data")
            parts = (table, UserTable.of({})) if self.held_out is None else self.held_out.part(table, date, split)
            check(parts[0])
            self._tables[day], self._parts[day] = table, parts
            self._read.pop(day, None)
            if weighs:
                self._weights[date] = self._weigh(table, merged.weights)
        else:
            self._read[day] = merged
        self._told[day] = {*told, rank}
        return complete

    def _weigh(self, table: UserTable, weights: Mapping[str, float]) -> _Weights:
        values = np.fromiter((weights.get(uid, np.nan) for uid in table.uids), np.float64, len(table.uids))
        missing: dict[int, list[str]] = {}
        for i in np.flatnonzero(np.isnan(values)):
            missing.setdefault(owner_of(table.uids[i], self.ranks), []).append(table.uids[i])
        return _Weights(values, {rank: frozenset(uids) for rank, uids in missing.items()})

    def ready(self, date: str, split: str) -> bool:
        """Whether every simulator has told its users of the day."""
        return (date, split) in self._tables

    def table(self, date: str, split: str) -> UserTable:
        """All users of a day; of training data without those that are held out.

        Raises:
            NotFound: they are not known.
        """
        others, _ = self.parts(date, split)
        return others if split == TRAIN else self._tables[date, split]

    def parts(self, date: str, split: str) -> tuple[UserTable, UserTable]:
        """The users of a day that are not held out, and those that are; raises as `table`."""
        if (date, split) not in self._parts:
            raise NotFound(f"no {split} users are known for date {date!r}")
        return self._parts[date, split]

    # -- weights -------------------------------------------------------------------

    def to_weigh(self, rank: int, date: str, split: str) -> list[str]:
        """The users of a day whose weights a simulator has to tell, sorted."""
        weights = self._weights.get(date) if split == TRAIN else None
        return [] if weights is None else sorted(weights.missing.get(rank, ()))

    def check_weigher(self, rank: int, date: str) -> None:
        """Raises WrongState if a simulator has no weights of a day to tell."""
        if not self.to_weigh(rank, date, TRAIN):
            raise WrongState(f"rank {rank} has no weights of {date} to tell")

    def add_weights(self, rank: int, date: str, weights: Mapping[str, float]) -> None:
        """Takes the weights that a simulator was asked for.

        Raises:
            WrongState: it was not asked, or for other users.
            BadInput: a weight that is none.
        """
        self.check_weigher(rank, date)
        held = self._weights[date]
        odd = held.missing[rank] ^ set(weights)
        if odd:
            raise WrongState(f"date {date}: rank {rank}'s weights are not of the users it was asked for: {min(odd)!r}")
        for uid, weight in weights.items():
            check_weight(uid, weight)
        table = self._tables[date, TRAIN]
        for uid, weight in weights.items():
            held.values[table.place(uid)] = weight
        del held.missing[rank]

    def weighed(self, date: str) -> bool:
        """Whether nobody's weight on a day is missing; of a day that is not known, nobody's is."""
        return date not in self._weights or not self._weights[date].missing

    def weights(self, date: str, uids: Sequence[str]) -> tuple[float, ...]:
        """The weights of users with training data.

        Raises:
            WrongState: some are missing yet.
        """
        if not self.weighed(date):
            raise WrongState(f"the users of {date} are not weighed yet")
        table, held = self._tables[date, TRAIN], self._weights[date]
        return tuple(float(held.values[table.place(uid)]) for uid in uids)
