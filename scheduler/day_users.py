"""The users of the days, as the simulators tell them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from protos.errors import AlreadyDone, BadInput, NotFound
from scheduler.rounds import TEST, TRAIN
from scheduler.samplers import UserTable

Day = tuple[str, str]  # date and split


@dataclass
class DayUsers:
    """Which users each day and split has; complete when every simulator has told what it has read.

    Attributes:
        simulators: how many there are.
    """

    simulators: int
    _told: dict[Day, set[int]] = field(default_factory=dict)
    _counts: dict[Day, dict[str, int]] = field(default_factory=dict)
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

    def add(
        self, rank: int, date: str, split: str, counts: Mapping[str, int], check: Callable[[UserTable], None]
    ) -> bool:
        """Takes what one simulator has read of a day.

        Args:
            rank: the simulator.
            date: the day.
            split: "train" or "test".
            counts: uid -> examples.
            check: of the whole day, with the last report; may refuse it.

        Returns:
            Whether that was the last report.

        Raises:
            AlreadyDone, BadInput: and nothing has changed.
        """
        self.check_teller(rank, date, split)
        empty = [uid for uid, count in counts.items() if count < 1]
        if empty:
            raise BadInput(f"date {date}, {split}: uid {empty[0]!r} has no examples")
        day = (date, split)
        told = self._told.get(day, set())
        merged = dict(self._counts.get(day, {}))
        for uid, count in counts.items():
            merged[uid] = merged.get(uid, 0) + count
        complete = len(told) + 1 == self.simulators
        if complete:
            table = UserTable.of(merged)
            if not table.uids:
                raise BadInput(f"date {date}: no users with {split} data")
            check(table)
            self._tables[day] = table
            self._counts.pop(day, None)
        else:
            self._counts[day] = merged
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
