"""The simulators of a run: which have joined, which live, and which have left."""

from __future__ import annotations

from protos.errors import AlreadyDone, BadInput, NotFound
from scheduler.service.messages import Layout, SimulatorInfo
from scheduler.service.run_lock import RunLock


class Members:
    """Who takes part; callers hold the lock.

    Args:
        run: its lock.

    Attributes:
        left: simulators that are done.
        gone: of a run that stopped: those whose processes have ended.
    """

    def __init__(self, run: RunLock) -> None:
        self._run = run
        self._infos: dict[int, SimulatorInfo] = {}
        self._watching: set[int] = set()
        self.left: set[int] = set()
        self.gone: set[int] = set()

    def join(self, info: SimulatorInfo) -> bool:
        """Takes a simulator in; returns whether it was the last."""
        self._run.check_rank(info.rank)
        if info.rank in self._infos:
            raise AlreadyDone(f"rank {info.rank} has already joined")
        self._infos[info.rank] = info
        return len(self._infos) == len(self._run.ranks)

    def watch(self, rank: int) -> None:
        """Notes that a simulator lives."""
        self._run.check_rank(rank)
        if rank in self._watching:
            raise AlreadyDone(f"rank {rank} is watching already")
        self._watching.add(rank)

    def lose(self, rank: int) -> bool:
        """Notes that a simulator lives no more; returns whether it went without a good-bye."""
        self.gone.add(rank)
        return rank in self._watching and rank not in self.left

    @property
    def layout(self) -> Layout:
        """All simulators, by rank, and the days that any of them sees."""
        infos = tuple(self._infos[rank] for rank in self._run.ranks)
        return Layout(infos, tuple(sorted({day for info in infos for day in info.days})))

    @property
    def lanes(self) -> dict[int, int]:
        """Shards of each simulator."""
        return {rank: info.shards for rank, info in self._infos.items()}

    @property
    def all_left(self) -> bool:
        """Whether all are done."""
        return len(self.left) == len(self._run.ranks)

    @property
    def all_gone(self) -> bool:
        """Whether the processes of all have ended."""
        return self.gone >= set(self._run.ranks)

    def check_day(self, date: str) -> None:
        """Raises NotFound if a date is no day of the run."""
        if not any(date in info.days for info in self._infos.values()):
            raise NotFound(f"date {date[:40]!r} is not a day of this run")

    def check_lanes(self, rank: int, sums: int) -> None:
        """Refuses more memories of sums than a simulator has shards."""
        if sums > self._infos[rank].shards:
            raise BadInput(f"rank {rank} names {sums} memories, it has {self._infos[rank].shards} shards")
