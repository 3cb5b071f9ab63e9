"""Deals a source out: each user's examples to train on and to be tested on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protos.errors import BadInput
from reader.partition.partitioner import Partitioner
from reader.partition.plain_set import Int64, PlainSet, Source
from reader.reader_base import DataError
from scheduler.rules.streams import stream

# A set's own test examples are tested by users of their own, so many each, which several workers can share.
_TESTED_AT_ONCE = 1_000


@dataclass(frozen=True)
class User:
    """A user and the rows that it has of a set.

    Attributes:
        uid: its name.
        number: its place among the users who train; -1 if it does not.
        rows: of its examples, in its order.
    """

    uid: str
    number: int
    rows: Int64


@dataclass(frozen=True)
class Dealt:
    """Who got what.

    Attributes:
        source: what was dealt out.
        train: users, each with rows of the training set.
        test: users who are tested, each with rows of `test_set`.
        test_set: the set that the rows of `test` are of.
    """

    source: Source
    train: Sequence[User]
    test: Sequence[User]
    test_set: PlainSet


def deal_out(source: Source, partitioner: Partitioner, users: int | None, test_share: float | None, seed: int) -> Dealt:
    """Deals out, the same for the same seed.

    Args:
        source: what there is.
        partitioner: who deals it.
        users: how many; None where the partitioner knows.
        test_share: of each user's examples; None: the set's own test examples.
        seed: of every random choice.

    Raises:
        BadInput: the partitioner cannot do it, or what it gives is no dealing.
        DataError: there are no test examples, or a user is called as those who test them.
    """
    examples = source.train
    if test_share is None and source.test is None:
        raise DataError(f"{examples.where} has no test set of its own: give --test-share, a part of each user's")
    dealt = partitioner.deal(examples, users, stream(seed, "partition"))
    uids = partitioner.uids(examples, len(dealt))
    _check(type(partitioner).__name__, dealt, uids, len(examples))
    train, test = [], []
    for number, (uid, rows) in enumerate(zip(uids, dealt, strict=True)):
        shuffled = stream(seed, "partition order", uid).permutation(rows)
        cut = len(shuffled) if test_share is None else train_count(len(shuffled), test_share)
        train.append(User(uid, number, shuffled[:cut]))
        if cut < len(shuffled):
            test.append(User(uid, number, shuffled[cut:]))
    if test_share is not None:
        return Dealt(source, train, test, examples)
    assert source.test is not None  # checked above
    return Dealt(source, train, _own_tests(source.test, partitioner, train), source.test)


def _check(partitioner: str, dealt: Sequence[Int64], uids: Sequence[str], examples: int) -> None:
    """Holds a partitioner, which may be anybody's, to what it must give."""
    if not dealt or len(uids) != len(dealt) or len(set(uids)) != len(uids):
        raise BadInput(f"{partitioner} names {len(set(uids))} different users for {len(dealt)} parts")
    for uid, rows in zip(uids, dealt, strict=True):
        if not len(rows) or rows.min() < 0 or rows.max() >= examples:
            raise BadInput(f"{partitioner} gives {uid!r} {len(rows)} rows, not some of 0 to {examples - 1}")
    times = np.bincount(np.concatenate(dealt), minlength=examples)
    if times.max() > 1:
        raise BadInput(f"{partitioner} gives row {int(times.argmax())} to {times.max()} users; one may have it")


def train_count(count: int, test_share: float) -> int:
    """How many of a user's examples it trains on: rounded down, but one at least."""
    # The share of 10 of 0.1 is one, whatever 10 * (1 - 0.1) is in binary.
    return max(1, math.floor(count * (1 - test_share) + 1e-9))


def _own_tests(tests: PlainSet, partitioner: Partitioner, train: Sequence[User]) -> list[User]:
    """The set's own test examples: of whom the partitioner says, or of users who do nothing but test."""
    numbers = {user.uid: user.number for user in train}
    known = partitioner.deal_tests(tests)
    if known is not None:
        return [User(uid, numbers.get(uid, -1), rows) for uid, rows in known]
    parts = np.array_split(np.arange(len(tests)), math.ceil(len(tests) / _TESTED_AT_ONCE))
    own = [User(f"test-set-{number:04d}", -1, rows) for number, rows in enumerate(parts)]
    for user in own:
        if user.uid in numbers:
            raise DataError(f"a user is called {user.uid!r}, as those who test the set's own test examples; rename it")
    return own
