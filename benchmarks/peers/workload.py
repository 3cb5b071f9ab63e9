"""The language-model workload every system trains, in a form that needs NumPy only.

Next-word prediction: an embedding, two LSTM layers and a softmax over 10,000 words; one local epoch of SGD over
a user's sequences in their order, gradients clipped to a global norm, users weighted by their sequences.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

VOCABULARY, HIDDEN, LAYERS = 10_000, 256, 2
BATCH, LEARNING_RATE, MAX_GRAD_NORM, SERVER_LEARNING_RATE = 5, 1.0, 5.0, 1.85
COHORT = 10

User = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Workload:
    """Users and the rounds they train in.

    Attributes:
        users: of each user its words, the words that follow, and what a position counts: (sequences, 10) each.
        cohorts: for each round the users' places in `users`.
    """

    users: Sequence[User]
    cohorts: Sequence[Sequence[int]]

    def size(self, user: int) -> int:
        """Sequences of a user."""
        return len(self.users[user][0])

    def save(self, path: Path) -> None:
        """Writes it to an NPZ file."""
        x, y, mask = (np.concatenate(parts) for parts in zip(*self.users, strict=True))
        ends = np.cumsum([len(user[0]) for user in self.users])
        np.savez(path, x=x, y=y, mask=mask, ends=ends, cohorts=np.array(self.cohorts))

    @classmethod
    def load(cls, path: Path) -> Workload:
        """Reads what `save` wrote."""
        with np.load(path) as file:
            cuts = file["ends"][:-1]
            x, y, mask = (np.split(file[name], cuts) for name in ("x", "y", "mask"))
            users = [
                (a.astype(np.int64), b.astype(np.int64), m.astype(np.float32))
                for a, b, m in zip(x, y, mask, strict=True)
            ]
            return cls(users, file["cohorts"].tolist())


def batches(user: User) -> Iterator[User]:
    """A user's sequences, a few at a time."""
    x, y, mask = user
    for start in range(0, len(x), BATCH):
        part = slice(start, start + BATCH)
        yield x[part], y[part], mask[part]


def report(path: Path, seconds: Sequence[float]) -> None:
    """Hands the seconds of each round after the first to the benchmark."""
    path.write_text(json.dumps(list(seconds)))
