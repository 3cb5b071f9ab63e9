"""What a server step may depend on, beside the numbers it moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from scheduler.rules.metrics import Pair, ratio
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
    """

    seed: int
    date: str
    round: int
    step: int
    cohort: int
    population: int
    scalars: Mapping[str, Pair] = field(default_factory=dict)

    def mean(self, name: str) -> float:
        """The mean of a scalar over users; NaN if nobody has said it."""
        return ratio(self.scalars.get(name, (0.0, 0.0)))

    def rng(self, *what: str | int) -> np.random.Generator:
        """A random stream of this round, from (seed, date, round, what it is for)."""
        return stream(self.seed, "server", self.date, self.round, *what)
