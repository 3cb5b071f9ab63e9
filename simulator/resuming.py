"""How simulators go on from a checkpoint: which one, on which day, and with which private parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from protos.errors import BadInput
from scheduler.checkpoints import Offer
from scheduler.scheduler_client import SchedulerClient
from simulator.checkpoint_files import choose, has_segment, read_segment
from simulator.data_client import DataClient
from simulator.days import DayPlan


@dataclass(frozen=True)
class Resumed:
    """The checkpoint all simulators go on from.

    Attributes:
        offer: what it holds.
        readers: the rank that reads each of its files of private parameters.
    """

    offer: Offer
    readers: Mapping[str, int]

    def first_day(self, days: Sequence[DayPlan], rounds: int, data: Path) -> int:
        """The number of the day of its last round, which may still be to test.

        Args:
            days: of the run.
            rounds: of a day.
            data: their folder, for the error.

        Raises:
            BadInput: that day has another date here.
        """
        number = (self.offer.step - 1) // max(1, rounds)
        there = days[number].date if number < len(days) else "none"
        if there != self.offer.date:
            raise BadInput(
                f"--resume: the checkpoint is of date {self.offer.date}, day {number + 1} of the run; the data folder "
                f"{data} has {there} there: give the data the run began with"
            )
        return number

    def restore_private(self, folder: Path, rank: int, client: DataClient) -> None:
        """Hands the private parameters of the files that are this rank's to read to their owners of now."""
        for segment in self.offer.segments:
            if self.readers[segment.name] == rank:
                client.restore_params(read_segment(folder / segment.name))


def agree_on_checkpoint(client: SchedulerClient, folder: Path) -> Resumed:
    """Agrees with the other simulators on the newest checkpoint whose files are all there.

    Args:
        client: of the scheduler.
        folder: of the checkpoints, as this simulator sees it.

    Raises:
        BadInput: there is none.
    """
    offers = client.get_checkpoints()
    here = {s.name for s in {s for offer in offers for s in offer.segments} if has_segment(folder, s)}
    posted = client.exchange("checkpoints", json.dumps(sorted(here)).encode())
    seen = {rank: set(json.loads(names)) for rank, names in posted.items()}
    resumed = Resumed(*choose(offers, seen, folder))
    client.restore(resumed.offer.step)
    return resumed
