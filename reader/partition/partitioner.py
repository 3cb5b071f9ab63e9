"""What a partitioner is: a value that deals a plain set's examples out to users; chosen by name with arguments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from protos.errors import BadInput
from reader.partition.plain_set import Array, Int64, PlainSet
from scheduler.rules.choices import Registry


class Partitioner(ABC):
    """Deals examples out to users.

    A frozen dataclass whose fields are its arguments.  `register_partitioner` puts it under its name.  Arguments
    that flwr-datasets' partitioners have too are called and mean the same as there.
    """

    @abstractmethod
    def deal(self, examples: PlainSet, users: int | None, rng: np.random.Generator) -> list[Int64]:
        """Who gets what.

        Args:
            examples: all there are.
            users: how many are wanted; None if it was not said.
            rng: of this dealing; the same for the same seed.

        Returns:
            The rows of each user's examples: each row at most once in all, each user one at least.

        Raises:
            BadInput: it cannot be done with these examples.
        """

    def uids(self, examples: PlainSet, users: int) -> list[str]:
        """What the users are called, in the order of `deal`."""
        width = max(4, len(str(users - 1)))
        return [f"user{number:0{width}d}" for number in range(users)]

    def deal_tests(self, tests: PlainSet) -> list[tuple[str, Int64]] | None:
        """Whose the examples of the set's own test set are, uid and rows; None: nobody's in particular."""
        return None

    def changed(self, x: Array, number: int, users: int, rng: np.random.Generator) -> Array:
        """The examples of a user as it sees them; most partitioners leave them as they are.

        Args:
            x: (n, ...) of one user.
            number: of the user, from 0.
            users: how many there are.
            rng: of this user and split.
        """
        return x

    @property
    def float_examples(self) -> bool:
        """Whether `changed` makes float32 of bytes, scaled as `scaled` says."""
        return False


PARTITIONERS: Registry[Partitioner] = Registry("--partitioner", "partitioner")
register_partitioner = PARTITIONERS.register


def wanted(users: int | None, examples: PlainSet) -> int:
    """The number of users that was asked for.

    Raises:
        BadInput: none was, or it is more than there are examples.
    """
    if users is None:
        raise BadInput("--users is missing: this partitioner must be told how many users to deal to")
    if not 1 <= users <= len(examples):
        raise BadInput(f"--users {users}: {examples.where} has {len(examples)} examples; 1 to so many users can be")
    return users


def rows_by_label(examples: PlainSet, rng: np.random.Generator) -> list[tuple[int, Int64]]:
    """The labels that occur, in order, each with its rows in a random order."""
    return [(int(label), rng.permutation(np.flatnonzero(examples.y == label))) for label in np.unique(examples.y)]


def dealt_by_counts(rows: Int64, counts: Sequence[int] | Int64) -> list[Int64]:
    """Rows cut in pieces of these sizes, in order; what is beyond the last is left out."""
    return np.split(rows, np.cumsum(np.asarray(counts, np.int64)))[:-1]


def check_at_least(name: str, value: float, least: float, above: bool = False) -> None:
    """Raises BadInput if an argument is less than it may be, or not above it."""
    if not (value > least if above else value >= least):
        raise BadInput(f"{name} is {value}; it must be {'above' if above else 'at least'} {least}")
