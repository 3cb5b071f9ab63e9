"""A recommender on MovieLens' ratings: items' factors are shared, and what is known of a user never leaves it.

python examples/make_data.py recommender /tmp/ratings
mpirun -np 2 python examples/recommender.py /tmp/ratings

MovieLens 100k's own folder may be given in place of the made-up ratings.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from reader import DataError, ReaderBase
from simulator import FLSimRoleMaker, RunResult, Settings, SimulationFramework, parse_settings
from simulator.callbacks import Callback
from trainer import TrainerBase

if TYPE_CHECKING:
    from recommender_model import Factors

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
Examples = dict[str, Array]
Metrics = dict[str, tuple[float, float]]

# Ratings of a user who are kept for the test: one in so many.
TEST_SHARE = 0.2
# Of the yardstick: as many ratings of no effect are added to those of each item, and of each user.
DAMPING = 5.0


class RecommenderSettings(Settings):
    """Ratings: DATA has MovieLens' u.data, or what make_data.py makes."""

    rounds: int = 200
    sample_num: int = 100
    epochs: int = 2
    batch_size: int = 10
    lr: float = 0.05
    max_grad_norm: float | None = None
    server_optimizer: str = "fedadam(lr=0.03)"
    eval_every: int = 50
    items: int = Field(1682, ge=1, description="items; their ids are 1 to this number")
    factors: int = Field(8, ge=1, description="numbers that describe an item, and a user")
    decay: float = Field(0.02, ge=0, description="of factors and biases, in the loss")
    split: Literal["last", "random"] = Field("last", description="which fifth of a user's ratings is the test")


class RatingsReader(ReaderBase):
    """Reads u.data: user, item, rating and time in a line, separated by tabs.

    A fifth of each user's ratings is for tests: the last ones in time, or a random choice.  Each example brings
    the guesses of two yardsticks, which know all training ratings: their mean; and with it the damped biases of
    the item and of the user (Koren 2010, "Factor in the Neighbors", section 2.1).

    Args:
        items: how many there are.
        split: "last" or "random".
    """

    one_day = True

    def __init__(self, items: int, split: str = "last") -> None:
        self.items, self.split = items, split
        self._mean, self._biases = 0.0, np.zeros(0)

    def files(self, day: Path, split: str) -> list[Path]:
        """The one file, which has both splits."""
        path = day / "u.data"
        return [path] if path.is_file() else []

    def prepare(self, data: Path, train_files: Sequence[Path]) -> dict[str, Any]:
        """The mean and the items' biases."""
        table = np.concatenate([mine[train] for path in train_files for _, mine, train in self._users(path)])
        mean = float(table[:, 2].mean())
        totals = np.bincount(table[:, 1], table[:, 2] - mean, self.items + 1)
        counts = np.bincount(table[:, 1], minlength=self.items + 1)
        return {"mean": mean, "biases": (totals / (counts + DAMPING)).tolist()}

    def setup(self, shared: dict[str, Any]) -> None:
        """Takes them."""
        self._mean, self._biases = shared["mean"], np.array(shared["biases"])

    def read(self, path: Path) -> Iterator[tuple[str, Examples]]:
        """All that is for training."""
        return self.read_split(path, "train")

    def read_split(self, path: Path, split: str) -> Iterator[tuple[str, Examples]]:
        """Yields (uid, {"item", "y", "known"}); see `Factors`."""
        for uid, mine, train in self._users(path):
            item, y = mine[:, 1], mine[:, 2].astype(np.float32)
            guess = self._mean + self._biases[item]
            own = (y - guess)[train].sum() / (train.sum() + DAMPING)
            known = np.stack([np.full(len(y), self._mean), guess + own], axis=1).astype(np.float32)
            kept = train if split == "train" else ~train
            if kept.any():
                yield uid, {"item": item[kept], "y": y[kept], "known": known[kept]}

    def _users(self, path: Path) -> Iterator[tuple[str, npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
        """Of each user: uid, its lines in time, and which of them are for training."""
        table = self._table(path)
        table = table[np.lexsort((np.arange(len(table)), table[:, 3], table[:, 0]))]
        firsts = np.flatnonzero(np.diff(table[:, 0], prepend=table[0, 0] - 1))
        for mine in np.split(table, firsts[1:]):
            user, n = int(mine[0, 0]), len(mine)
            order = np.arange(n) if self.split == "last" else np.random.default_rng([user, n]).permutation(n)
            # A user with one or two ratings has none for a test.
            yield str(user), mine, order < n - int(TEST_SHARE * n)

    def _table(self, path: Path) -> npt.NDArray[np.int64]:
        """Int64 (ratings, 4): user, item, rating, time.

        Raises:
            DataError: another form, or a number that cannot be right.
        """
        try:
            table = np.loadtxt(path, np.int64, delimiter="\t", ndmin=2)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not lines of user, item, rating and time, whole numbers: {error}") from error
        if not len(table) or table.shape[1] != 4:
            raise DataError(
                f"{path}: {len(table)} lines of {table.shape[1]} numbers; a line has user, item, rating, time"
            )
        for place, name, least, most in ((1, "item", 1, self.items), (2, "rating", 1, 5)):
            wrong = np.flatnonzero((table[:, place] < least) | (table[:, place] > most))
            if len(wrong):
                line, user = int(wrong[0]), table[wrong[0], 0]
                hint = "; more items: --items" if name == "item" else ""
                raise DataError(
                    f"{path}: line {line + 1}, user {user}: {name} {table[line, place]} is not within {least} to "
                    f"{most}{hint}"
                )
        return table


class RecommenderTrainer(TrainerBase):
    """SGD in small batches, in a new order each epoch."""

    takes = (*TrainerBase.takes, "items", "factors", "decay")
    result = "loss"
    higher_is_better = False
    items: int
    factors: int
    decay: float

    def make_model(self) -> Factors:
        """The model."""
        from recommender_model import Factors

        return Factors(self.items, self.factors, self.decay)

    def touched_rows(self, examples: Mapping[str, Array]) -> dict[str, Array]:
        """Only the rows of items that the user has rated change."""
        rows = np.unique(examples["item"])
        return {"item_factor.weight": rows, "item_bias.weight": rows}

    def tests_together(self, model: Any, private: Sequence[str]) -> int:
        """Users are tested side by side, if what is private is the users'."""
        return 4096 if all(name.startswith("user_") for name in private) else 0

    def evaluate_users(self, model: Any, users: Sequence[Any]) -> list[Metrics]:
        """As `TrainerBase.evaluate_users`, in NumPy: one product for all ratings."""
        values = {name: value.numpy() for name, value in model.state_dict().items()}
        found: list[Metrics] = []
        for user in users:
            item, y, known = (user.examples[name] for name in ("item", "y", "known"))
            mine = {**values, **user.private}
            guess = mine["mean"] + mine["item_bias.weight"][item, 0] + mine["user_bias"]
            guess = guess + mine["item_factor.weight"][item] @ mine["user_factor"]
            errors = [np.square(each - y, dtype=np.float64).sum() for each in (guess, *known.T)]
            names = ("loss", "loss_of_mean", "loss_of_biases")
            found.append({name: (float(error), float(len(y))) for name, error in zip(names, errors, strict=True)})
        return found


class SaysRmse(Callback):
    """Says the roots of the mean squared errors of the last test."""

    def on_end(self, result: RunResult) -> None:
        """One line."""
        names = {"loss_of_mean": "the mean", "loss_of_biases": "biases", "loss": "this model",
                 "personal_loss": "users' own models"}  # fmt: skip
        last = {name: result.metrics[name][-1] for name in names if name in result.metrics}
        told = [f"{names[name]} {sqrt(float(value)):.4f}" for name, value in last.items()]
        logger.info("RMSE of the last test: %s", ", ".join(told))


def main() -> None:
    """Settings, pieces, run: the same lines on every rank."""
    settings = parse_settings(RecommenderSettings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(RatingsReader(settings.items, settings.split))
    framework.set_trainer(RecommenderTrainer(shuffle=True))
    framework.add_callback(SaysRmse())
    framework.run()


if __name__ == "__main__":
    main()
