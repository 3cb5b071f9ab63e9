"""A simulator's place among the others, as its data server goes by it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from protos.errors import WrongState


class LoadingDays:
    """The days whose examples are being loaded: only theirs are taken from other simulators."""

    def __init__(self) -> None:
        self._open: set[tuple[str, str]] = set()

    @contextmanager
    def loading(self, date: str, split: str) -> Iterator[None]:
        """While it lasts, examples of a day may come: from before any simulator reads to after all have."""
        self._open.add((date, split))
        try:
            yield
        finally:
            self._open.discard((date, split))

    def check(self, date: str, split: str) -> None:
        """Raises WrongState if a day is not being loaded: its users could not change any more, or not yet."""
        if (date, split) not in self._open:
            raise WrongState(f"examples of {date}, {split}, came while that day is not being loaded")


@dataclass(frozen=True)
class Seat:
    """A simulator among the others.

    Attributes:
        rank: its own.
        leader: the rank of the first simulator.
        days: whose examples are being loaded here.
    """

    rank: int
    leader: int
    days: LoadingDays = field(default_factory=LoadingDays)
