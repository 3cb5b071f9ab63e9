"""The days of a data folder and what is done on each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from protos.errors import BadInput

_DAY = re.compile(r"[0-9]{8}")


@dataclass(frozen=True)
class DayPlan:
    """One day of training.

    Attributes:
        date: the day that is trained.
        test_date: the day whose test data follows, before anything is trained on it; None for no test.
    """

    date: str
    test_date: str | None


def list_days(data: Path) -> list[str]:
    """The day folders of a data folder, in order.

    Raises:
        BadInput: no such folder, or no day in it.
    """
    if not data.is_dir():
        raise BadInput(f"data folder {data} is missing or is no folder")
    days = sorted(p.name for p in data.iterdir() if p.is_dir() and _DAY.fullmatch(p.name))
    if not days:
        raise BadInput(f"data folder {data} has no day folders (such as {data}/20200101)")
    return days


def plan_days(days: Sequence[str], *, train_last_day: bool, test: bool) -> list[DayPlan]:
    """What is trained and what is tested.

    Each day is tested before it is trained on, so after a day's training comes the
    test of the day after.  The last day is only tested unless asked; a single day is
    trained and tested on its own test files.
    """
    if len(days) == 1:
        return [DayPlan(days[0], days[0] if test else None)]
    plans = [DayPlan(day, after if test else None) for day, after in pairwise(days)]
    if train_last_day:
        plans.append(DayPlan(days[-1], None))
    return plans
