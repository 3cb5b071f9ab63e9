"""The server step: how the cohort's mean delta moves the global parameters.

With x the global parameters and d the weighted mean of the users' deltas (their
parameters after local training minus x), FedAvg is McMahan et al. 2017,
Algorithm 1, with a server learning rate; FedAdagrad, FedYogi and FedAdam are
Reddi et al. 2021 ("Adaptive Federated Optimization"), Algorithm 2:

    m <- b1 m + (1 - b1) d
    v <- v + d^2                           FedAdagrad
         v - (1 - b2) d^2 sign(v - d^2)    FedYogi
         b2 v + (1 - b2) d^2               FedAdam
    x <- x + lr m / (sqrt(v) + tau)

with v starting at tau^2 and m at 0.  FedAvgM is Hsu et al. 2019 (server momentum):
m <- b m + d,  x <- x + lr m.

Every step is elementwise and in float64, so it gives the same bits however the
parameters are cut; x is rounded to its own dtype once.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np

from protos.errors import BadInput
from scheduler.rules.choices import Registry
from scheduler.rules.server_rule import Float64, ServerRule
from scheduler.rules.step import Step

SERVER_OPTIMIZERS: Registry[ServerOptimizer] = Registry(
    "--server-optimizer", "server optimizer", short={"learning_rate": "lr"}
)


class ServerOptimizer(ServerRule):
    """The rule that moves the model; a user's own optimizer is a subclass with `step` and `slots`.

    Args:
        learning_rate: server learning rate.

    Raises:
        BadInput: it is not above 0, or not finite.
    """

    name: ClassVar[str]
    # Whether users count by their weight; if not, each counts 1.
    weighted: ClassVar[bool] = True

    def __init__(self, learning_rate: float) -> None:
        if not 0 < learning_rate < math.inf:
            raise BadInput(f"{type(self).__name__}: learning rate {learning_rate}; it must be above 0 and finite")
        self.learning_rate = learning_rate

    def __repr__(self) -> str:
        """The class and its numbers: what a run that is resumed must have again."""
        numbers = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__qualname__}({numbers})"


@SERVER_OPTIMIZERS.register("fedavg")
class FedAvg(ServerOptimizer):
    """The mean delta, times a rate: x <- x + lr d."""

    name: ClassVar[str] = "fedavg"
    keeps_untouched: ClassVar[bool] = True

    def __init__(self, learning_rate: float = 1.0) -> None:
        super().__init__(learning_rate)

    def step(self, x: Float64, mean: Float64, slots: dict[str, Float64], at: Step) -> Float64:  # noqa: D102
        mean *= self.learning_rate
        x += mean
        return x


@SERVER_OPTIMIZERS.register("sum")
class Sum(ServerOptimizer):
    """The plain sum of the users' deltas, each counted once: x <- x + lr n d for n users."""

    name: ClassVar[str] = "sum"
    keeps_untouched: ClassVar[bool] = True
    weighted: ClassVar[bool] = False

    def __init__(self, learning_rate: float = 1.0) -> None:
        super().__init__(learning_rate)

    def step(self, x: Float64, mean: Float64, slots: dict[str, Float64], at: Step) -> Float64:  # noqa: D102
        return x + self.learning_rate * (mean * at.cohort)


@SERVER_OPTIMIZERS.register("fedavgm")
class FedAvgM(ServerOptimizer):
    """FedAvg with momentum on the server: m <- b m + d, x <- x + lr m."""

    name: ClassVar[str] = "fedavgm"
    slots: ClassVar[tuple[str, ...]] = ("momentum",)

    def __init__(self, learning_rate: float = 1.0, momentum: float = 0.9) -> None:
        super().__init__(learning_rate)
        self.momentum = momentum

    def step(self, x: Float64, mean: Float64, slots: dict[str, Float64], at: Step) -> Float64:  # noqa: D102
        m = slots["momentum"]
        m *= self.momentum
        m += mean
        return x + self.learning_rate * m


class _Adaptive(ServerOptimizer):
    """Algorithm 2 of Reddi et al. 2021; the three differ in `_second`."""

    slots: ClassVar[tuple[str, ...]] = ("m", "v")

    def __init__(self, learning_rate: float, beta1: float, beta2: float, tau: float) -> None:
        super().__init__(learning_rate)
        self.beta1, self.beta2, self.tau = beta1, beta2, tau

    def initial_slot(self, slot: str) -> float:
        return self.tau**2 if slot == "v" else 0.0

    @abstractmethod
    def _second(self, v: Float64, square: Float64) -> None:
        """Updates v in place with the squared mean delta."""

    def step(self, x: Float64, mean: Float64, slots: dict[str, Float64], at: Step) -> Float64:
        m, v = slots["m"], slots["v"]
        m *= self.beta1
        m += (1 - self.beta1) * mean
        self._second(v, mean * mean)
        return x + self.learning_rate * m / (np.sqrt(v) + self.tau)


@SERVER_OPTIMIZERS.register("fedadagrad")
class FedAdagrad(_Adaptive):
    """Adagrad on the server: v <- v + d^2."""

    name: ClassVar[str] = "fedadagrad"

    def __init__(self, learning_rate: float = 0.1, beta1: float = 0.0, tau: float = 1e-3) -> None:
        super().__init__(learning_rate, beta1, 0.0, tau)

    def _second(self, v: Float64, square: Float64) -> None:
        v += square


@SERVER_OPTIMIZERS.register("fedadam")
class FedAdam(_Adaptive):
    """Adam on the server: v <- b2 v + (1 - b2) d^2."""

    name: ClassVar[str] = "fedadam"

    def __init__(self, learning_rate: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> None:
        super().__init__(learning_rate, beta1, beta2, tau)

    def _second(self, v: Float64, square: Float64) -> None:
        v *= self.beta2
        v += (1 - self.beta2) * square


@SERVER_OPTIMIZERS.register("fedyogi")
class FedYogi(_Adaptive):
    """Yogi on the server: v <- v - (1 - b2) d^2 sign(v - d^2)."""

    name: ClassVar[str] = "fedyogi"

    def __init__(self, learning_rate: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> None:
        super().__init__(learning_rate, beta1, beta2, tau)

    def _second(self, v: Float64, square: Float64) -> None:
        v -= (1 - self.beta2) * square * np.sign(v - square)
