"""The trainer template: one user's local training and evaluation.

This module is imported by processes that never train, so it imports Paddle only
inside methods; keep the model in a module of its own and import it in `make_model`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import numpy as np
import numpy.typing as npt

from scheduler.rules.local_optimizers import LOCAL_OPTIMIZERS, LocalRule, RuleState
from scheduler.rules.schedules import LR_SCHEDULES, Schedule
from trainer.answers import add_metrics, check_loss
from trainer.cutting import CUT_BYTES, cut, cut_at_once, shuffled, whole_batches
from trainer.faster import with_fast_layers
from trainer.local_sgd import LocalSGD
from trainer.local_steps import LocalSteps
from trainer.local_user import EvaluatedUser, Examples, LocalOptimizer, LocalUser, Metrics
from trainer.side_by_side import evaluate_rows, says_rows

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from model.model_base import Learner, ModelBase


class LocalTraining(TypedDict, total=False):
    """The numbers of local training; in a run they are those of the settings."""

    epochs: int
    batch_size: int
    lr: float
    max_grad_norm: float | None
    lr_schedule: str
    local_optimizer: str


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
        drop_last: whether training leaves out a last batch that is smaller than the others, as PFLlib's does; a user
            with fewer examples than a batch keeps its only one.
        numbers: for a trainer that is used by itself; in a run each must be as the setting.
    """

    takes: ClassVar[tuple[str, ...]] = (
        "epochs", "batch_size", "lr", "max_grad_norm", "lr_schedule", "local_optimizer",
    )  # fmt: skip
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
    lr_schedule: str = "constant"
    local_optimizer: str = "sgd"
    # What the last two name: None for a constant rate, and for plain SGD.
    lr_by_round: Schedule | None = None
    local_rule: LocalRule | None = None
    # What the local optimizer remembers of the user whose turn it is; given before each training of a run.
    rule_state: RuleState | None = None
    shuffle: bool = False
    drop_last: bool = False

    def __init_subclass__(cls) -> None:
        """An optimizer of the trainer's own is none that a setting could choose."""
        super().__init_subclass__()
        if cls.make_optimizer is not TrainerBase.make_optimizer:
            cls.takes = tuple(name for name in cls.takes if name != "local_optimizer")

    def __init__(self, *, shuffle: bool = False, drop_last: bool = False, **numbers: Unpack[LocalTraining]) -> None:
        unknown = sorted(set(numbers) - set(LocalTraining.__annotations__))
        if unknown:
            raise TypeError(f"{type(self).__name__} has no argument {unknown[0]!r}")
        vars(self).update(numbers)
        self.shuffle, self.drop_last = shuffle, drop_last
        if "local_optimizer" in numbers:
            self._take_rule(LOCAL_OPTIMIZERS.make(self.local_optimizer))
        if "lr_schedule" in numbers and self.lr_schedule != "constant":
            self.lr_by_round = LR_SCHEDULES.make(self.lr_schedule)

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
            if name == "local_optimizer" and (value != self.local_optimizer or self.local_rule is None):
                taken._take_rule(settings.make_local_optimizer())
            if name == "lr_schedule" and (value != self.lr_schedule or self.lr_by_round is None):
                taken.lr_by_round = settings.make_lr_schedule()
        return taken

    def _take_rule(self, rule: LocalRule) -> None:
        self.local_rule = None if rule.plain else rule

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
        """A local optimizer for one user, by `--local-optimizer`.  Any of Paddle's optimizers may take its place."""
        if self.local_rule is not None:
            state = RuleState() if self.rule_state is None else self.rule_state
            return LocalSteps(model, self.local_rule, self.lr, self.max_grad_norm, state)
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
        examples = shuffled(examples, rng)
        held = self.hold(examples)
        small = sum(rows.nbytes for rows in examples.values()) <= CUT_BYTES
        pieces = cut_at_once(held, count, self.batch_size) if small else None
        yield from cut(held, self.batch_size) if pieces is None else pieces

    def _learner(self, model: ModelBase, examples: Examples) -> Learner | None:
        """See `ModelBase.learner`; None where this class has a way of its own to cut batches or to go forward."""
        offer = getattr(model, "learner", None) if self._is_plain(TrainerBase, "forward", "batches", "hold") else None
        return None if offer is None else offer(examples)

    def forward(self, model: ModelBase, batch: Mapping[str, Any], state: Any) -> tuple[Any, Metrics, Any]:
        """Loss and metrics of a batch, and what to carry to the next batch of this user.

        Args:
            model: the model.
            batch: slices of what `hold` gave.
            state: what the batch before returned; None for the first of a pass.

        Returns:
            Scalar loss tensor, metrics as name -> (sum, count), next state.
        """
        loss, metrics = check_loss(model, model.loss(batch))
        return loss, metrics, None

    @with_fast_layers
    def train_user(self, model: ModelBase, examples: Examples, user: LocalUser) -> Metrics:
        """Trains the model on one user's examples, in place.

        Args:
            model: holds the round's parameters and the user's private ones.
            examples: of the user.
            user: who it is, with its random stream.

        Returns:
            Metrics of the training as name -> (sum, count).
        """
        optimizer, learn = self.make_optimizer(model), self._learner(model, examples)
        totals: Metrics = {}
        for _ in range(self.epochs):
            rng, state = user.rng if self.shuffle else None, None
            batches = self.batches(examples, rng) if learn is None else cut(shuffled(examples, rng), self.batch_size)
            for batch in whole_batches(batches, self.batch_size) if self.drop_last else batches:
                user.before_batch(batch, partial(self._again, model, batch, state, learn))
                if learn is not None:
                    metrics = learn(batch)
                else:
                    loss, metrics, state = self.forward(model, batch, state)
                    loss.backward()
                user.before_step()
                optimizer.step()
                optimizer.clear_grad()
                add_metrics(totals, metrics)
        return totals

    def _again(self, model: ModelBase, batch: Any, state: Any, learn: Learner | None, backward: bool) -> None:
        """Goes through a batch of `train_user` once more; the state that it leaves is forgotten."""
        if learn is not None and backward:
            learn(batch)
            return
        loss, _, _ = self.forward(model, batch if learn is None else self.hold(batch), state)
        if backward:
            loss.backward()

    @with_fast_layers
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

    def tests_together(self, model: ModelBase, private: Sequence[str]) -> int:
        """How many examples of users may be tested in one go, by `evaluate_users`; 0 to test each user by itself.

        By default 0, unless the model says that its `examples_are_independent`, no parameter is private, and
        tests are those of this class.

        Args:
            model: the model.
            private: names of parameters that each user keeps.
        """
        return _TOGETHER if not private and self._has_rows(model) else 0

    @with_fast_layers
    def evaluate_users(self, model: ModelBase, users: Sequence[EvaluatedUser]) -> list[Metrics]:
        """What `evaluate_user` gives for each of several users, who may be tested side by side.

        Called if `tests_together` says so, with users of as many examples at most, or one user of more.  Who
        is among them is the same for any number of ranks and shards; so are the seeds of the global
        generators, which derive from all their uids.  Nothing of one may reach another.  If this fails, or the
        model is not what it was, the users are tested one by one instead.

        Args:
            model: holds the round's parameters.
            users: who they are, with their examples and private parameters.

        Returns:
            Metrics of each as name -> (sum, count), equal to those of `evaluate_user` but for rounding.
        """
        if self._has_rows(model):
            return evaluate_rows(model, [user.examples for user in users], self.hold)
        return [self.evaluate_user(model, user.examples, user) for user in users]

    def _has_rows(self, model: ModelBase) -> bool:
        """Whether a test is a pass over examples of which each counts for itself."""
        return says_rows(model) and self._is_plain(TrainerBase, "evaluate_user", "forward", "batches", "hold")

    def _is_plain(self, kind: type, *methods: str) -> bool:
        """Whether methods are those of a class, and not a subclass's own, which another way would pass by."""
        return all(getattr(type(self), name) is getattr(kind, name) for name in methods)


# Of users who are tested in one go.
_TOGETHER = 1024
