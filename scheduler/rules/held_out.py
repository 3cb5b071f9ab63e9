"""Users that are kept out of training, and tested as those who come new to a model that is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from protos.errors import BadInput
from scheduler.rules.metrics import NEW, Pair
from scheduler.rules.samplers import UserTable
from scheduler.rules.streams import stream_key


@dataclass(frozen=True)
class HeldOut:
    """Chooses them by a hash of the seed and the uid: the same on every day and any number of ranks.

    Attributes:
        share: of all users, above 0 and below 1; each user is held out with this probability.
        seed: of the run.
    """

    share: float
    seed: int

    def __contains__(self, uid: str) -> bool:
        return stream_key(self.seed, "held out", uid) < self.share * 2.0**128

    def part(self, users: UserTable, date: str, split: str) -> tuple[UserTable, UserTable]:
        """The users of a day that may train, and those that are held out.

        Raises:
            BadInput: none of the one kind, or of the other.
        """
        new = np.fromiter((uid in self for uid in users.uids), np.bool_, len(users.uids))
        out = int(new.sum())
        if out in (0, len(new)):
            what = "none" if not out else "all"
            left = "nobody would be tested as a new user" if not out else "nobody would be left to train"
            raise BadInput(
                f"date {date}: --hold-out-users {self.share} holds out {what} of the {len(new)} users with {split} "
                f"data, so {left}; {'raise' if not out else 'lower'} it, or change --seed"
            )
        return _those(users, ~new), _those(users, new)


def as_new(metrics: Mapping[str, Pair]) -> dict[str, Pair]:
    """A new user's metrics under the names that they have in the record."""
    return {f"{NEW}{name}": pair for name, pair in metrics.items()}


def check_not_new(uid: str, metrics: Mapping[str, Pair]) -> None:
    """Raises BadInput if a metric of the task has a name that is a new user's."""
    odd = next((name for name in metrics if name.startswith(NEW)), None)
    if odd is not None:
        raise BadInput(
            f"uid {uid!r}: a metric is called {odd!r}; with --hold-out-users, names that begin with {NEW!r} are those "
            "of new users' metrics: rename it"
        )


def _those(users: UserTable, which: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> UserTable:
    places = np.flatnonzero(which)
    return UserTable(tuple(users.uids[i] for i in places), users.counts[places])
