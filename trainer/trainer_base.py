"""The trainer template: one user's local training and evaluation.

This module is imported by processes that never train, so it imports Paddle only
inside methods; keep the model in a module of its own and import it in `make_model`.
"""

from __future__ import annotations

import copy
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from trainer.local_sgd import LocalSGD

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from model.model_base import ModelBase

Examples = Mapping[str, npt.NDArray[Any]]
Metrics = dict[str, tuple[float, float]]
_Turn: TypeAlias = "Callable[[TrainerBase, ModelBase, Examples, LocalUser], Metrics]"


class TaskError(TypeError):
    """A model or a trainer that does not give what it must; the message says it all, in one line."""

    one_line = True


class LocalUser(Protocol):
    """Whose turn it is.

    Attributes:
        uid: the user.
        date: the day, YYYYMMDD.
        round: of the day, from 1; in an evaluation the rounds trained before it.
        rng: its own random stream, from (seed, date, round, uid).  Paddle's,
            NumPy's and Python's global generators are seeded from it too.
        training: its training examples of the day; in a test without rows if it has none.
    """

    @property
    def uid(self) -> str: ...  # noqa: D102
    @property
    def date(self) -> str: ...  # noqa: D102
    @property
    def round(self) -> int: ...  # noqa: D102
    @property
    def rng(self) -> np.random.Generator: ...  # noqa: D102
    @property
    def training(self) -> Examples: ...  # noqa: D102

    def before_step(self) -> None:
        """To be called between backward and each optimizer step: here an algorithm corrects gradients."""


class LocalOptimizer(Protocol):
    """What local training asks of an optimizer."""

    def step(self) -> None: ...  # noqa: D102
    def clear_grad(self) -> None: ...  # noqa: D102


class LocalTraining(TypedDict, total=False):
    """The numbers of local training; in a run they are those of the settings."""

    epochs: int
    batch_size: int
    lr: float
    max_grad_norm: float | None


def _with_fast_layers(turn: _Turn) -> _Turn:
    """Has a user's turn done with fast layers, unless the trainer is told not to."""

    @functools.wraps(turn)
    def faster(self: TrainerBase, model: ModelBase, examples: Examples, user: LocalUser) -> Metrics:
        if not self.fast_layers:
            return turn(self, model, examples, user)
        from model.fast_layers import fast_layers

        with fast_layers(model):
            return turn(self, model, examples, user)

    return faster


class TrainerBase(ABC):
    """Subclass it and write `make_model`; the rest has defaults.

    The default local training is minibatch SGD on `model.loss`: `epochs` passes in
    batches of `batch_size`, gradients clipped to a global norm.  A trainer travels to
    the worker processes, so it keeps plain values only.

    In a run, the settings named in `takes` are in force by themselves: they become attributes
    of the trainer.  A subclass may add settings of its own there, and leaves out those that
    its training does not use; changing one that is not there is refused.

    Args:
        shuffle: whether each epoch goes through the examples in a new order.
        numbers: for a trainer that is used by itself; in a run each must be as the setting.
    """

    takes: ClassVar[tuple[str, ...]] = ("epochs", "batch_size", "lr", "max_grad_norm")
    # The metric that a run is judged by: its figure is said last, and the record tells how users differ in it.
    # None for no such metric; where tests have none of this name, all that they have are said.
    result: ClassVar[str | None] = "top1"
    higher_is_better: ClassVar[bool] = True
    # Whether training and tests do convolutions faster than Paddle does, with another rounding (`model.fast_layers`).
    fast_layers: bool = True
    # Outside of a run; as the defaults of `Settings`.
    epochs: int = 1
    batch_size: int = 5
    lr: float = 1.0
    max_grad_norm: float | None = 5.0
    shuffle: bool = False

    def __init__(self, *, shuffle: bool = False, **numbers: Unpack[LocalTraining]) -> None:
        unknown = sorted(set(numbers) - set(LocalTraining.__annotations__))
        if unknown:
            raise TypeError(f"{type(self).__name__} has no argument {unknown[0]!r}")
        vars(self).update(numbers)
        self.shuffle = shuffle

    def with_settings(self, settings: Any) -> Self:
        """This trainer with the settings of a run that are named in `takes`.

        Args:
            settings: an object with these attributes.

        Raises:
            ValueError: the trainer was given another value for one, or there is no such setting.
        """
        taken = copy.copy(self)
        # What an earlier use in this process has left.
        vars(taken).pop("_local_sgd", None)
        for name in self.takes:
            who, flag = type(self).__name__, f"--{name.replace('_', '-')}"
            if not hasattr(settings, name):
                raise ValueError(f"{who} takes the setting {name!r}, which {type(settings).__name__} does not have")
            value = getattr(settings, name)
            if not self._is_given(name):
                setattr(taken, name, value)
            elif getattr(self, name) != value:
                raise ValueError(
                    f"{who} is given {name}={getattr(self, name)!r}, but {flag} is {value!r}: leave it out of "
                    "the trainer, the setting is in force by itself; a page's own default stands in its Settings"
                )
        return taken

    def _is_given(self, name: str) -> bool:
        """Whether the page or a subclass has given an attribute a value."""
        owner = next((kind for kind in type(self).__mro__ if name in vars(kind)), None)
        return name in vars(self) or (owner not in (None, TrainerBase) and hasattr(self, name))

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
        small = sum(rows.nbytes for rows in examples.values()) <= _CUT_BYTES
        cut = _cut_at_once(held, count, self.batch_size) if small else None
        if cut is not None:
            yield from cut
            return
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
        loss, metrics = _checked(model, model.loss(batch))
        return loss, metrics, None

    @_with_fast_layers
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
                user.before_step()
                optimizer.step()
                optimizer.clear_grad()
                add_metrics(totals, metrics)
        return totals

    @_with_fast_layers
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


# Of examples whose tensors are cut at once: the pieces are copies.
_CUT_BYTES = 1 << 20


def _cut_at_once(held: Mapping[str, Any], count: int, size: int) -> list[dict[str, Any]] | None:
    """All batches by one operator an array, instead of one a batch and array; None if they are not plain tensors."""
    import paddle

    plain = all(isinstance(rows, paddle.Tensor) and rows.shape[:1] == [count] for rows in held.values())
    if count <= size or not plain:
        return None
    sizes = [min(size, count - start) for start in range(0, count, size)]
    pieces = [paddle.split(rows, sizes) for rows in held.values()]
    return [dict(zip(held, batch, strict=True)) for batch in zip(*pieces, strict=True)]


def _checked(model: Any, answer: Any) -> tuple[Any, Any]:
    """What `model.loss` gave, if it is a loss and metrics.

    Raises:
        TaskError: it is not; names the class.
    """
    if type(answer) is tuple and len(answer) == 2:
        loss, metrics = answer
        # What nearly all models give, found without a microsecond for each batch.
        if type(metrics) is dict and getattr(loss, "ndim", -1) == 0 and hasattr(loss, "backward"):
            return loss, metrics
    who, must = f"{type(model).__name__}.loss", "it must return (loss, metrics), metrics as name -> (sum, count)"
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise TaskError(f"{who} returns {_short(answer)}; {must}")
    loss, metrics = answer
    if not hasattr(loss, "backward"):
        raise TaskError(f"{who} returns {_short(loss)} as the loss; {must}, the loss a tensor that can be trained on")
    if math.prod(loss.shape) != 1:
        raise TaskError(f"{who} returns a loss of shape {list(loss.shape)}; it must be a scalar, such as its mean()")
    if not isinstance(metrics, Mapping):
        raise TaskError(f"{who} returns {_short(metrics)} as the metrics; {must}")
    return loss, metrics


def _short(value: Any) -> str:
    """A value for an error, in one line."""
    if hasattr(value, "backward"):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:80]} ..."


def add_metrics(totals: Metrics, metrics: Mapping[str, Any]) -> None:
    """Adds (sum, count) pairs, numbers or one-element tensors, to running totals in place.

    Raises:
        TaskError: what is no such pair; names it.
    """
    for name, pair in metrics.items():
        try:
            total, count = pair
        except (TypeError, ValueError) as error:
            raise TaskError(f"metric {name!r} must be a pair (sum, count), not {_short(pair)}") from error
        before = totals.get(name, (0.0, 0.0))
        try:
            totals[name] = (before[0] + _as_float(total), before[1] + _as_float(count))
        except (TypeError, ValueError) as error:
            said = f"({_short(total)}, {_short(count)})"
            raise TaskError(f"metric {name!r} must be a pair of numbers (sum, count), not {said}") from error


def _as_float(value: Any) -> float:
    """A number's value; a tensor's own `float` takes many times as long as its `item`."""
    if type(value) is int or type(value) is float:
        return float(value)
    return float(value.item() if hasattr(value, "item") else value)
