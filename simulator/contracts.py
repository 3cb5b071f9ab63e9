"""What the core asks of a task: the pieces that a page sets, as protocols.

`reader.ReaderBase`, `trainer.TrainerBase` and `model.ModelBase` are templates for them; nothing
must inherit from these.  A model is a `paddle.nn.Layer`, of which the core knows nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from protos.codec import Array

# A user's examples: the first axis of each array counts them.
Examples: TypeAlias = dict[str, Array]
# Name -> (sum, count): numbers.
Metrics: TypeAlias = Mapping[str, tuple[float, float]]
# Goes through a batch once more, with the parameters that the model then has: forth, and back if told so, which
# sets gradients; the optimizer makes no step.
Again: TypeAlias = Callable[[bool], None]
# What JSON holds.
Json: TypeAlias = Any
# A paddle.nn.Layer, which only shards import.
Model: TypeAlias = Any


class Reader(Protocol):
    """How the files of a day become users."""

    def files(self, day: Path, split: str) -> Sequence[Path]:
        """The files of a day's folder and a split, "train" or "test"."""

    def prepare(self, data: Path, train_files: Sequence[Path]) -> dict[str, Json]:
        """What all readers share, made once in the run."""

    def setup(self, shared: dict[str, Json]) -> None:
        """Takes what `prepare` returned."""

    def read(self, path: Path) -> Iterable[tuple[str, Examples]]:
        """(uid, examples) of each user of a file."""


class User(Protocol):
    """Whose turn it is, as a trainer sees it."""

    uid: str
    date: str
    round: int

    @property
    def rng(self) -> np.random.Generator:
        """Its random stream."""

    @property
    def training(self) -> Examples:
        """Its training examples of the day."""

    def before_batch(self, batch: Mapping[str, Any], again: Again) -> None:
        """Comes before each batch of a training goes forth."""

    def before_step(self) -> None:
        """Comes between backward and each optimizer step."""


class Trainer(Protocol):
    """How one user trains and is tested."""

    def make_model(self) -> Model:
        """The model."""

    def weight(self, examples: Examples) -> float:
        """A user's weight in the mean."""

    def touched_rows(self, examples: Examples) -> Mapping[str, Array]:
        """Rows of large parameters outside of which training changes nothing."""

    def train_user(self, model: Model, examples: Examples, user: User) -> Metrics:
        """Trains in place."""

    def evaluate_user(self, model: Model, examples: Examples, user: User) -> Metrics:
        """Tests."""


class EvaluatedUser(User, Protocol):
    """A user who is tested with others in one go."""

    @property
    def examples(self) -> Examples:
        """Of the test."""

    @property
    def private(self) -> Mapping[str, Array]:
        """Its private parameters, which are not in the model."""


class TestsTogether(Protocol):
    """What a trainer may offer beside: users who are tested in one go."""

    def tests_together(self, model: Model, private: Sequence[str]) -> int:
        """Examples of users who are tested in one go; 0 to test each user by itself."""

    def evaluate_users(self, model: Model, users: Sequence[EvaluatedUser]) -> Sequence[Metrics]:
        """Tests; the metrics of each."""
