"""The trainer template: one user's local training and evaluation.

This module is imported by processes that never train, so it imports Paddle only
inside methods; keep the model in a module of its own and import it in `make_model`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from trainer.local_sgd import LocalSGD

if TYPE_CHECKING:
    from model.model_base import ModelBase

Examples = Mapping[str, npt.NDArray[Any]]
Metrics = dict[str, tuple[float, float]]


class LocalUser(Protocol):
    """Whose turn it is.

    Attributes:
        uid: the user.
        date: the day, YYYYMMDD.
        round: of the day, from 1; in an evaluation the rounds trained before it.
        rng: its own random stream, from (seed, date, round, uid).  Paddle's,
            NumPy's and Python's global generators are seeded from it too.
    """

    @property
    def uid(self) -> str: ...  # noqa: D102
    @property
    def date(self) -> str: ...  # noqa: D102
    @property
    def round(self) -> int: ...  # noqa: D102
    @property
    def rng(self) -> np.random.Generator: ...  # noqa: D102


class LocalOptimizer(Protocol):
    """What local training asks of an optimizer."""

    def step(self) -> None: ...  # noqa: D102
    def clear_grad(self) -> None: ...  # noqa: D102


class TrainerBase(ABC):
    """Subclass it and write `make_model`; the rest has defaults.

    The default local training is minibatch SGD on `model.loss`: `epochs` passes in
    batches of `batch_size`, gradients clipped to a global norm.  A trainer travels to
    the worker processes, so its constructor keeps plain values only.

    Args:
        epochs: local epochs a round.
        batch_size: examples in a batch.
        lr: local learning rate.
        max_grad_norm: global norm gradients are clipped to; None for no clipping.
        shuffle: whether each epoch goes through the examples in a new order.
    """

    def __init__(
        self,
        *,
        epochs: int = 1,
        batch_size: int = 10,
        lr: float = 0.1,
        max_grad_norm: float | None = None,
        shuffle: bool = False,
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.max_grad_norm = max_grad_norm
        self.shuffle = shuffle

    @abstractmethod
    def make_model(self) -> ModelBase:
        """The model, built once in every worker process; Paddle is seeded before."""

    def weight(self, examples: Examples) -> float:
        """The weight of a user's delta in the mean: the number of its examples.

        Another one must be a function of the examples alone, since it is asked for when data is
        loaded and again in each round: finite and not negative, of any size, 0 for a user that is
        not to count.  A user may come in several files; what counts is the weight of all its examples.
        """
        return float(len(next(iter(examples.values()))))

    def touched_rows(self, examples: Examples) -> Mapping[str, npt.NDArray[Any]]:
        """Rows of large parameters outside of which training on these examples changes nothing.

        An embedding changes only in the rows of the tokens that occur: saying so saves
        going through all of it for every user.

        Returns:
            Parameter name -> distinct indices of its first axis; {} if all may change.
        """
        return {}

    def make_optimizer(self, model: ModelBase) -> LocalOptimizer:
        """A fresh local optimizer for one user: SGD.  Any of Paddle's optimizers may take its place."""
        # It remembers nothing of a user, so one that was made for the same numbers is as good as new.
        made: LocalSGD | None = getattr(self, "_local_sgd", None)
        if made is None or not made.is_for(model, self.lr, self.max_grad_norm):
            made = self._local_sgd = LocalSGD(model, self.lr, self.max_grad_norm)
        return made

    def hold(self, examples: Examples) -> Mapping[str, Any]:
        """What batches are cut from: the examples as tensors, made once and not for every batch."""
        import paddle

        return {name: paddle.to_tensor(rows) for name, rows in examples.items()}

    def batches(self, examples: Examples, rng: np.random.Generator | None) -> Iterator[dict[str, Any]]:
        """Cuts examples into batches.

        Args:
            examples: arrays with n rows.
            rng: for a new order; None keeps the order.
        """
        count = len(next(iter(examples.values())))
        if rng is not None:
            order = rng.permutation(count)
            examples = {name: rows[order] for name, rows in examples.items()}
        held = self.hold(examples)
        for start in range(0, count, self.batch_size):
            yield {name: rows[start : start + self.batch_size] for name, rows in held.items()}

    def forward(self, model: ModelBase, batch: Mapping[str, Any], state: Any) -> tuple[Any, Metrics, Any]:
        """Loss and metrics of a batch, and what to carry to the next batch of this user.

        Args:
            model: the model.
            batch: slices of what `hold` gave.
            state: what the batch before returned; None for the first of a pass.

        Returns:
            Scalar loss tensor, metrics as name -> (sum, count), next state.
        """
        loss, metrics = model.loss(batch)
        return loss, metrics, None

    def train_user(self, model: ModelBase, examples: Examples, user: LocalUser) -> Metrics:
        """Trains the model on one user's examples, in place.

        Args:
            model: holds the round's parameters and the user's private ones.
            examples: of the user.
            user: who it is, with its random stream.

        Returns:
            Metrics of the training as name -> (sum, count).
        """
        optimizer = self.make_optimizer(model)
        totals: Metrics = {}
        for _ in range(self.epochs):
            state = None
            for batch in self.batches(examples, user.rng if self.shuffle else None):
                loss, metrics, state = self.forward(model, batch, state)
                loss.backward()
                optimizer.step()
                optimizer.clear_grad()
                add_metrics(totals, metrics)
        return totals

    def evaluate_user(self, model: ModelBase, examples: Examples, user: LocalUser) -> Metrics:
        """Metrics on one user's examples, as name -> (sum, count).

        The model does not change here.  One of your own may change it, fine-tuning for example: all of
        it is put back before the next user, private parameters included.
        """
        import paddle

        totals: Metrics = {}
        state = None
        with paddle.no_grad():
            for batch in self.batches(examples, None):
                _, metrics, state = self.forward(model, batch, state)
                add_metrics(totals, metrics)
        return totals


def add_metrics(totals: Metrics, metrics: Mapping[str, Any]) -> None:
    """Adds (sum, count) pairs, numbers or one-element tensors, to running totals in place."""
    for name, pair in metrics.items():
        try:
            total, count = pair
        except (TypeError, ValueError) as error:
            raise TypeError(f"metric {name!r} must be a pair (sum, count), not {pair!r}") from error
        before = totals.get(name, (0.0, 0.0))
        totals[name] = (before[0] + _as_float(total), before[1] + _as_float(count))


def _as_float(value: Any) -> float:
    """A number's value; a tensor's own `float` takes many times as long as its `item`."""
    return float(value.item() if hasattr(value, "item") else value)
