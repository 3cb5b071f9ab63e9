"""Local optimizers: how a user moves its parameters by their gradients.

With x a parameter, g its gradient (clipped before it comes here) and r the local rate:

    sgd      g <- g + w x,   b <- mu b + g,   x <- x - r b       (Nesterov: x <- x - r (g + mu b))
    adam     Kingma and Ba 2015, Algorithm 1, with g <- g + w x
    adamw    Loshchilov and Hutter 2019, Algorithm 2: x <- (1 - r w) x, then Adam's step by g itself

with w the weight decay.  What they remember begins at 0 in each training, or is kept with the user (`keep`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from protos.codec import Array, Tensors, TensorSpec
from protos.errors import BadInput
from scheduler.rules.choices import Registry

LOCAL_OPTIMIZERS: Registry[LocalRule] = Registry("--local-optimizer", "local optimizer")

# Of each parameter, how many steps it has made.
STEPS = "steps"


class LocalRule(ABC):
    """One step of local training, element by element.  One of your own is a frozen dataclass with `slots` and `step`.

    It keeps nothing by itself: what it remembers of a parameter are its slots, arrays that begin at zero.
    """

    # Whether the slots go on from round to round, as part of what the user keeps.
    keep: bool = False

    @property
    def slots(self) -> tuple[str, ...]:
        """What it remembers of each element, by name."""
        return ()

    @property
    def plain(self) -> bool:
        """Whether a step is x <- x - r g and nothing else."""
        return False

    @abstractmethod
    def step(self, x: Array, gradient: Array, slots: Mapping[str, Array], rate: float, count: int) -> None:
        """Changes a block of a parameter in place.

        Args:
            x: (n,), of the parameter's dtype.
            gradient: (n,), may be overwritten.
            slots: (n,) each, of the parameter's dtype, updated in place.
            rate: the local learning rate.
            count: steps of this parameter, this one among them.
        """

    def reach(self, steps: int) -> float | None:
        """How far so many steps go if all gradients are 1, at rate 1: |a|_1 of Wang et al. 2020; None if unknown.

        It is for steps that are sums of gradients with weights that do not depend on these.
        """
        return None


@dataclass
class RuleState:
    """What a rule remembers of one model.

    Attributes:
        arrays: "parameter/slot" -> array of the parameter's shape, and "parameter/steps" -> int64 (1,).
        asked: whether an optimizer was made with it.
    """

    arrays: Tensors = field(default_factory=dict)
    asked: bool = False


def kept_specs(rule: LocalRule | None, parameters: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """What a user keeps of a rule: nothing, or `RuleState.arrays`.

    Args:
        rule: None for plain SGD.
        parameters: all that have gradients.
    """
    if rule is None or not rule.keep:
        return {}
    specs = {f"{name}/{slot}": spec for name, spec in parameters.items() for slot in rule.slots}
    return specs | {f"{name}/{STEPS}": TensorSpec("int64", (1,)) for name in parameters}


@LOCAL_OPTIMIZERS.register("sgd")
@dataclass(frozen=True)
class LocalSGDRule(LocalRule):
    """Stochastic gradient descent, with momentum and weight decay if they are given.

    Args:
        momentum: mu, from 0 to less than 1.
        weight_decay: w, 0 or more.
        nesterov: whether the step looks ahead along the momentum.
        keep: whether the momentum goes on in the user's next round.
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    keep: bool = False

    def __post_init__(self) -> None:
        _hold_share(momentum=self.momentum)
        _hold_from_0(weight_decay=self.weight_decay)
        for name in ("nesterov", "keep"):
            if getattr(self, name) and not self.momentum:
                raise BadInput(f"{name}=True does nothing without momentum; give one, such as momentum=0.9")

    @property
    def slots(self) -> tuple[str, ...]:  # noqa: D102
        return ("momentum",) if self.momentum else ()

    @property
    def plain(self) -> bool:  # noqa: D102
        return not self.momentum and not self.weight_decay

    def step(self, x: Array, gradient: Array, slots: Mapping[str, Array], rate: float, count: int) -> None:  # noqa: D102
        kind = x.dtype.type
        if self.weight_decay:
            gradient += kind(self.weight_decay) * x
        if self.momentum:
            velocity = slots["momentum"]
            velocity *= kind(self.momentum)
            velocity += gradient
            gradient = gradient + kind(self.momentum) * velocity if self.nesterov else velocity
        x -= kind(rate) * gradient

    def reach(self, steps: int) -> float | None:
        """Of momentum that was kept it is not known: gradients of earlier rounds are in it."""
        if self.keep:
            return None
        velocity = total = 0.0
        for _ in range(steps):
            velocity = self.momentum * velocity + 1
            total += 1 + self.momentum * velocity if self.nesterov else velocity
        return total


@LOCAL_OPTIMIZERS.register("adam")
@dataclass(frozen=True)
class AdamRule(LocalRule):
    """Adam: steps by means of the gradients over those of their squares.

    Args:
        beta1: of the mean of gradients, from 0 to less than 1.
        beta2: of the mean of squares, from 0 to less than 1.
        epsilon: added to the root of these, above 0.
        weight_decay: w, 0 or more, in the gradient.
        keep: whether both means go on in the user's next round.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    keep: bool = False

    def __post_init__(self) -> None:
        _hold_share(beta1=self.beta1, beta2=self.beta2)
        _hold_from_0(weight_decay=self.weight_decay)
        if not 0 < self.epsilon < math.inf:
            raise BadInput(f"epsilon is {self.epsilon:g}; it must be above 0")

    @property
    def slots(self) -> tuple[str, ...]:  # noqa: D102
        return ("m", "v")

    def step(self, x: Array, gradient: Array, slots: Mapping[str, Array], rate: float, count: int) -> None:  # noqa: D102
        if self.weight_decay:
            gradient += x.dtype.type(self.weight_decay) * x
        self._move(x, gradient, slots, rate, count)

    def _move(self, x: Array, gradient: Array, slots: Mapping[str, Array], rate: float, count: int) -> None:
        kind, m, v = x.dtype.type, slots["m"], slots["v"]
        m *= kind(self.beta1)
        m += kind(1 - self.beta1) * gradient
        v *= kind(self.beta2)
        v += kind(1 - self.beta2) * (gradient * gradient)
        root = np.sqrt(v)
        root *= kind(1 / math.sqrt(1 - self.beta2**count))
        root += kind(self.epsilon)
        np.divide(m, root, out=root)
        root *= kind(rate / (1 - self.beta1**count))
        x -= root


@LOCAL_OPTIMIZERS.register("adamw")
@dataclass(frozen=True)
class AdamWRule(AdamRule):
    """Adam with weight decay apart from the gradient.

    Args:
        beta1: as Adam's.
        beta2: as Adam's.
        epsilon: as Adam's.
        weight_decay: w, 0 or more.
        keep: as Adam's.
    """

    weight_decay: float = 0.01

    def step(self, x: Array, gradient: Array, slots: Mapping[str, Array], rate: float, count: int) -> None:  # noqa: D102
        x *= x.dtype.type(1 - rate * self.weight_decay)
        self._move(x, gradient, slots, rate, count)


def _hold_share(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0 <= value < 1:
            raise BadInput(f"{name} is {value:g}; it must be from 0 to less than 1")


def _hold_from_0(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0 <= value < math.inf:
            raise BadInput(f"{name} is {value:g}; it must be 0 or more")
