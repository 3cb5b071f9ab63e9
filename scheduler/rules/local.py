"""One user's turn in a shard, as an algorithm sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np

from protos.codec import Array
from scheduler.rules.layers import Layers
from scheduler.rules.metrics import Pair

Metrics: TypeAlias = dict[str, Pair]
# Of what goes into the head of a batch, (n, d): the gradient of a term of the loss, (n, d); None for no term.
OnFeatures: TypeAlias = Callable[[Array], Array | None]


class Update(Protocol):
    """What a user sends of the model: its parameters after training minus those before."""

    def norm(self) -> float:
        """Its Euclidean norm, over all parameters that have gradients."""

    def scale(self, factor: float) -> None:
        """Multiplies its parameters that have gradients; buffers stay as they are."""

    def arrays(self) -> dict[str, Array]:
        """By name, float32 or wider; what is written there is what is sent.  Costs a copy, which `scale` does not."""


class Local(Protocol):
    """One user's turn in a shard."""

    @property
    def uid(self) -> str:
        """Of the user."""

    @property
    def date(self) -> str:
        """The day, YYYYMMDD."""

    @property
    def round(self) -> int:
        """Of the day, from 1; in a test the rounds trained before it."""

    @property
    def rng(self) -> np.random.Generator:
        """A random stream of this turn, apart from the trainer's."""

    @property
    def weight(self) -> float:
        """Of the user in the mean; 0 in a test."""

    @property
    def examples(self) -> Mapping[str, Array]:
        """The user's training examples of the day; without rows in a test of a user who has none."""

    @property
    def lr(self) -> float:
        """The local learning rate of the round; raises BadInput if the trainer has none."""

    @property
    def epochs(self) -> int:
        """Local epochs; raises BadInput if the trainer has none."""

    @property
    def batch_size(self) -> int:
        """Examples in a batch of local training; raises BadInput if the trainer has no such number."""

    @property
    def max_grad_norm(self) -> float | None:
        """To which norm the trainer clips gradients; None if it does not."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the last `train`; raises BadInput if the trainer's training does not tell."""

    @property
    def reach(self) -> float:
        """How far these go if all gradients are 1, at rate 1: |a|_1 of Wang et al. 2020; the steps for plain SGD."""

    @property
    def shared(self) -> Mapping[str, Array]:
        """The shared parameters as the round began, read-only."""

    @property
    def layers(self) -> Layers:
        """All arrays of the model by their layers."""

    @property
    def trained(self) -> Sequence[str]:
        """Names of the shared parameters that have gradients."""

    @property
    def own(self) -> Sequence[str]:
        """Names of the private parameters that have gradients."""

    @property
    def params(self) -> Mapping[str, Array]:
        """All parameters and buffers of the model as they are now, read-only; they change with the next training."""

    @property
    def state(self) -> MutableMapping[str, Array]:
        """This user's own arrays, see `Algorithm.user_state`: kept from round to round.  What a test writes is lost."""

    @property
    def known(self) -> bool:
        """Whether it has trained before; if not, its state is zero.  False where nothing is kept of users."""

    @property
    def update(self) -> Update:
        """What is sent of the model, after training."""

    def group(self, name: str) -> Mapping[str, Array]:
        """The arrays of a group as the round began, read-only."""

    def send(self, group: str, arrays: Mapping[str, Array]) -> None:
        """What this user adds to the mean of a group; arrays that are not sent count as zero."""

    def scalar(self, name: str, value: float, count: float = 1.0) -> None:
        """Adds (value, count) to a sum over users that rules see as `Step.scalars`."""

    def gradients(self) -> Mapping[str, Array]:
        """Within `correct`: the gradients of the shared parameters that train now, by name; may be written to.

        An array that was taken before `again` is no longer the gradient after it.
        """

    def skip(self) -> None:
        """Within `correct`: has the optimizer leave the shared parameters as they are in this step.

        They have no gradient then, where one of zero would still have momentum or weight decay move them.
        """

    @property
    def batch(self) -> Mapping[str, Array]:
        """Within `correct` and `on_features`: the examples of the step, as the reader's arrays."""

    def again(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Within `correct`: gradients of the step's batch at other parameters.

        Costs a pass forth and back; the model and its gradients are then as they were.

        Args:
            arrays: parameters and buffers that are others, by name.

        Returns:
            Name -> gradient, of the parameters that train now, private ones among them.
        """

    def features(
        self, arrays: Mapping[str, Array] | None = None, *, head: str = "", examples: Mapping[str, Array] | None = None
    ) -> Array:
        """What goes into the head, (n, d), a row an example; the model is then as it was.

        Within `correct` and `on_features` of the step's batch, in train mode; else of examples, in their order, as
        a test goes through them.

        Args:
            arrays: parameters and buffers that are others than the model's now, by name.
            head: see `Layers.head`.
            examples: None for the user's own.

        Raises:
            BadInput: the head has not seen one row of numbers for each example.
        """

    def evaluate(self, examples: Mapping[str, Array] | None = None) -> Metrics:
        """Metrics of a test of the model as it is on the user's training examples, or others; it stays as it is."""

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Sets parameters of the model; within `correct` for the step to come, whose gradients stay."""

    def reset(self) -> None:
        """Has the model be as the turn began: the round's parameters, and the user's private ones."""

    def train(
        self, *, epochs: int | None = None, batch_size: int | None = None, only: Iterable[str] | None = None,
        correct: Callable[[], None] | None = None, on_features: OnFeatures | None = None, head: str = "",
        examples: Mapping[str, Array] | None = None,
    ) -> Metrics:  # fmt: skip
        """Trains the model from where it is, as the trainer does.

        Args:
            epochs: instead of the setting's.
            batch_size: instead of the setting's.
            only: names of the parameters that train; None for all.
            correct: called before each optimizer step, when the gradients are there.
            on_features: called in each pass forth with what goes into the head, (n, d); the gradient that it
                returns is added to that of the loss with respect to these.
            head: see `Layers.head`; for `on_features`.
            examples: others than the user's, of the same form.

        Returns:
            Metrics of the training, name -> (sum, count).
        """
