"""What a federated algorithm is: how a user trains, what it sends and keeps, and how the server moves what is sent.

One object has both halves.  Its `train` and `personalise` run in a shard, for one user at
a time; its rules run in the scheduler.  It sees NumPy arrays only, and nothing of other users.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import ClassVar, Literal, TypeAlias, get_args

from protos.codec import Array
from protos.errors import BadInput
from scheduler.rules.layers import Layers, Specs
from scheduler.rules.local import Local, Metrics
from scheduler.rules.local_optimizers import LocalRule
from scheduler.rules.server_rule import ServerRule

# Whether users count by their weight in a mean, or each as one.
Weight: TypeAlias = Literal["user", "one"]
# With which local optimizers an algorithm's formulas hold: with any, with those whose steps are sums of gradients with
# weights that are known (`LocalRule.reach`), or with plain SGD alone.
LocalOptimizers: TypeAlias = Literal["any", "sums", "plain"]


@dataclass(frozen=True)
class Shapes:
    """What the arrays of the model look like.

    Attributes:
        shared: all that users share: parameters and floating-point buffers.
        trained: those of them that have gradients.
        layers: all arrays of the model, private ones too, by their layers.
    """

    shared: Specs
    trained: Specs
    layers: Layers = field(default_factory=lambda: Layers({}, ()))


@dataclass(frozen=True)
class Group:
    """Arrays beside the model's that all users read, that are summed over the cohort and moved by a rule of their own.

    Attributes:
        specs: of the arrays, by name.
        rule: moves them by the mean of what users have sent.
        weight: how users count in that mean.
        start: what arrays begin with, by name; zero where it says nothing.
    """

    specs: Specs
    rule: ServerRule
    weight: Weight = "user"
    start: Mapping[str, Array] = field(default_factory=dict)


class Algorithm:
    """Federated averaging: users train by themselves, the server moves by the mean of their updates.

    What is overridden makes it another algorithm.

    McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    Algorithm 1: each user k of the cohort S trains x on its own examples to y_k, and
    x <- x + sum_k w_k (y_k - x) / sum_k w_k  (with a server optimizer, another step by that mean).

    An algorithm is a frozen dataclass: its numbers are its arguments, and it keeps nothing between calls.
    """

    # How users count in the mean of the model's updates: by the trainer's `weight`, or each as one.
    weight: ClassVar[Weight] = "user"
    # Whether it is no mistake if users share nothing of the model.
    shares_nothing: ClassVar[bool] = False
    # Whether private parameters begin alike at all users, and are not drawn for each.
    starts_alike: ClassVar[bool] = False
    # Whether training may change elements that the examples do not reach (see `TrainerBase.touched_rows`).
    changes_all: ClassVar[bool] = False
    # With which local optimizers its formulas hold.
    local_optimizers: ClassVar[LocalOptimizers] = "any"
    # Whether a turn trains one model; if not, what a local optimizer remembers of one cannot be kept for the other.
    trains_one: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        """Names what is nearly an attribute of the base class: it would do nothing."""
        refuse_misspelt(cls, Algorithm)
        if cls.weight not in get_args(Weight):
            raise BadInput(f"{cls.__name__}.weight is {cls.weight!r}; it is 'user' or 'one'")
        if cls.local_optimizers not in get_args(LocalOptimizers):
            said = f"{cls.__name__}.local_optimizers is {cls.local_optimizers!r}"
            raise BadInput(f"{said}; it is 'any', 'sums' or 'plain'")

    def check(self, shapes: Shapes) -> None:
        """Raises BadInput if it cannot work with this model."""

    def private(self, layers: Layers) -> Sequence[str]:
        """Which arrays each user keeps to itself, beside those that are private anyway: names, or patterns of them.

        Raises BadInput if the model has no such layers.

        Args:
            layers: of the model.
        """
        return ()

    def groups(self, shapes: Shapes) -> Mapping[str, Group]:
        """Groups of arrays beside the model's, by name."""
        return {}

    def user_state(self, shapes: Shapes) -> Specs:
        """Arrays that each user keeps for itself, by name."""
        return {}

    def server_rule(self, rule: ServerRule) -> ServerRule:
        """What moves the model.

        Args:
            rule: the run's server optimizer.
        """
        return rule

    def train(self, local: Local) -> Metrics:
        """A user's turn: trains the model in place; returns metrics of the training.

        What then is in the model is sent (as `local.update`) and, of private parameters, kept.
        """
        return local.train()

    def personalise(self, local: Local) -> None:
        """Makes the user's own model of the global one, before a test of it; undone after that.

        Where it is overridden, users are tested with the global model and with their own; once, under both
        names, where it leaves the model as it is.
        """


def refuse_misspelt(kind: type, base: type) -> None:
    """Refuses a subclass whose own attribute is spelt nearly like one of the base class.

    Raises:
        BadInput: with both names.
    """
    known = [name for name in vars(base) if not name.startswith("_")]
    for name in vars(kind):
        if name.startswith("_") or name in known:
            continue
        near = get_close_matches(name, known, n=1, cutoff=0.75)
        if near:
            raise BadInput(f"{kind.__name__}.{name}: did you mean {near[0]!r}? If not, give it another name")


def check_number(name: str, value: float, *, least: float | None = None, above: float | None = None) -> None:
    """Raises BadInput if an argument is not finite, or out of its bounds."""
    if not math.isfinite(value) or (least is not None and value < least) or (above is not None and value <= above):
        bound = (
            "finite" if least is above is None else f"{least:g} or more" if least is not None else f"above {above:g}"
        )
        raise BadInput(f"{name} is {value:g}; it must be {bound}")


def check_local_optimizer(algorithm: Algorithm, rule: LocalRule | None, written: str) -> None:
    """Refuses a local optimizer with which an algorithm would not be what its formulas say.

    Args:
        algorithm: of the run.
        rule: None for plain SGD.
        written: the rule, as it was given.

    Raises:
        BadInput: in one line.
    """
    who, takes = type(algorithm).__name__, algorithm.local_optimizers
    begin = f"--local-optimizer {written}: "
    if rule is None:
        return
    if takes == "plain":
        raise BadInput(f"{begin}{who} holds for plain SGD alone; leave it out")
    if takes == "sums" and rule.reach(1) is None:
        raise BadInput(f"{begin}{who} must know how far steps go, as of sgd without keep; take that, or leave it out")
    if rule.keep and not algorithm.trains_one:
        raise BadInput(f"{begin}{who} trains two models of a user, and keep is for one; leave keep out")


def personalises(algorithm: Algorithm) -> bool:
    """Whether users are tested with a model of their own, too."""
    return type(algorithm).personalise is not Algorithm.personalise
