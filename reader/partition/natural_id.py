"""The users that a set has by nature: who wrote it, whose phone it was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protos.errors import BadInput
from reader.partition.partitioner import Partitioner, register_partitioner
from reader.partition.plain_set import Int64, PlainSet

_LONGEST = 1024


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
        uids, dealt = self._groups(examples)
        if users not in (None, len(uids)):
            raise BadInput(
                f"--users {users}: {self.partition_by!r} has {len(uids)} values, a user each; leave --users out"
            )
        return dealt

    def uids(self, examples: PlainSet, users: int) -> list[str]:
        """See `Partitioner.uids`."""
        return self._groups(examples)[0]

    def deal_tests(self, tests: PlainSet) -> list[tuple[str, Int64]] | None:
        """See `Partitioner.deal_tests`: by the same column, if they have it."""
        return list(zip(*self._groups(tests), strict=True)) if self.partition_by in tests.columns else None

    def _groups(self, examples: PlainSet) -> tuple[list[str], list[Int64]]:
        """The uids, and the rows of each in their order."""
        if self.partition_by not in examples.columns:
            there = ", ".join(map(repr, examples.columns)) or "none"
            raise BadInput(f"{examples.where} has no column {self.partition_by!r}; there are: {there}")
        values, whose = np.unique(examples.columns[self.partition_by], return_inverse=True)
        uids = [str(value) for value in values]
        for place, uid in enumerate(uids):
            if not uid.isprintable() or not 1 <= len(uid) <= _LONGEST:
                row = int(np.argmax(whose == place))
                raise BadInput(
                    f"{examples.where}: example {row} (from 0) has {uid[:40]!r} in {self.partition_by!r}, which cannot "
                    f"be a uid: 1 to {_LONGEST:,} letters that can be printed"
                )
        rows = np.split(np.argsort(whose, kind="stable"), np.cumsum(np.bincount(whose))[:-1])
        return uids, rows
