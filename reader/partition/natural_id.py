"""The users that a set has by nature: who wrote it, whose phone it was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protos.errors import BadInput
from reader.partition.partitioner import Partitioner, register_partitioner
from reader.partition.plain_set import Array, Int64, PlainSet


@register_partitioner("natural-id")
@dataclass(frozen=True)
class NaturalId(Partitioner):
    """A user for each value of a column, called by it.

    Args:
        partition_by: the column: of a CSV or NPZ file its name, of IDX files the NAME of `train-NAME.txt`.
    """

    partition_by: str

    def deal(self, examples: PlainSet, users: int | None, rng: np.random.Generator) -> list[Int64]:
        """See `Partitioner.deal`.  `users` must be as many as there are, if it is said."""
        values = self._values(examples)
        if users not in (None, len(values)):
            raise BadInput(
                f"--users {users}: {self.partition_by!r} has {len(values)} values, a user each; leave --users out"
            )
        whose = np.searchsorted(values, examples.columns[self.partition_by])
        return np.split(np.argsort(whose, kind="stable"), np.cumsum(np.bincount(whose, minlength=len(values))))[:-1]

    def uids(self, examples: PlainSet, users: int) -> list[str]:
        """See `Partitioner.uids`."""
        return [str(value) for value in self._values(examples)]

    def _values(self, examples: PlainSet) -> Array:
        if self.partition_by not in examples.columns:
            there = ", ".join(map(repr, examples.columns)) or "none"
            raise BadInput(f"{examples.where} has no column {self.partition_by!r}; there are: {there}")
        return np.unique(examples.columns[self.partition_by])
