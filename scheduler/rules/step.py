"""What a server step may depend on, beside the numbers it moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from protos.errors import BadInput
from scheduler.rules.metrics import Pair
from scheduler.rules.streams import stream


@dataclass(frozen=True)
class Step:
    """The server step of one round.

    Attributes:
        seed: of the run.
        date: the day, YYYYMMDD.
        round: of the day, from 1.
        step: rounds of the whole run before it.
        cohort: users that took part, |S|.
        population: users of the day, N.
        scalars: what users have said with `Local.scalar`: name -> (sum, count), correctly rounded.
        array: the full name of what is moved: of a parameter, or "group/name".
    """

    seed: int
    date: str
    round: int
    step: int
    cohort: int
    population: int
    scalars: Mapping[str, Pair] = field(default_factory=dict)
    array: str = ""
    _streams: dict[tuple[str | int, ...], np.random.Generator] = field(default_factory=dict, compare=False, repr=False)

    def mean(self, name: str) -> float:
        """The mean of a scalar over users.

        Raises:
            BadInput: nobody has said it.
        """
        total, count = self.scalars.get(name, (0.0, 0.0))
        if not count:
            said = ", ".join(sorted(self.scalars)) or "none"
            raise BadInput(
                f"date {self.date}, round {self.round}: no user has said the scalar {name!r}; there are: {said}"
            )
        return total / count

    def rng(self, *what: str | int) -> np.random.Generator:
        """A random stream of the array that is moved, from (seed, date, round, array, what it is for).

        It goes on from block to block of the array.
        """
        if what not in self._streams:
            self._streams[what] = stream(self.seed, "server", self.date, self.round, self.array, *what)
        return self._streams[what]

    def of_array(self, name: str) -> Step:
        """The same for one array, with streams of its own."""
        # Not by `replace`, which takes as long as the step of a small array.
        return Step(self.seed, self.date, self.round, self.step, self.cohort, self.population, self.scalars, name)
