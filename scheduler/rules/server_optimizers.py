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
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from protos.codec import Array, Tensors
from protos.errors import BadInput
from scheduler.rules.choices import Registry
from scheduler.rules.exact_sum import BLOCK, Int64, Sums, row_blocks

Float64 = npt.NDArray[np.float64]

SERVER_OPTIMIZERS: Registry[ServerOptimizer] = Registry(
    "--server-optimizer", "server optimizer", short={"learning_rate": "lr"}
)


class ServerOptimizer(ABC):
    """One server step; a user's own optimizer is a subclass with `step` and `slots`.

    Args:
        learning_rate: server learning rate.

    Raises:
        BadInput: it is not above 0, or not finite.
    """

    name: ClassVar[str]
    # State per parameter element: slot name -> initial value is `initial_slot`.
    slots: ClassVar[tuple[str, ...]] = ()
    # Whether users count by their weight; if not, each counts 1.
    weighted: ClassVar[bool] = True
    # Whether an element whose mean delta is 0 stays as it is, so that untouched rows can be left out.
    keeps_untouched: ClassVar[bool] = False

    def __init__(self, learning_rate: float) -> None:
        if not 0 < learning_rate < math.inf:
            raise BadInput(f"{type(self).__name__}: learning rate {learning_rate}; it must be above 0 and finite")
        self.learning_rate = learning_rate
        self._state: dict[str, dict[str, Float64]] = {}

    def __repr__(self) -> str:
        """The class and its numbers: what a run that is resumed must have again."""
        numbers = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__qualname__}({numbers})"

    def initial_slot(self, slot: str) -> float:
        """The value a slot starts from."""
        return 0.0

    @abstractmethod
    def step(self, x: Float64, mean: Float64, state: dict[str, Float64], cohort_size: int) -> Float64:
        """The new value of a block of one parameter.

        Args:
            x: float64 (n,), the parameter; may be overwritten.
            mean: float64 (n,), the weighted mean delta; may be overwritten.
            state: float64 (n,) a slot, updated in place.
            cohort_size: users that took part.

        Returns:
            float64 (n,).
        """

    def apply(self, name: str, param: Array, sums: Sequence[Sums], factor: float, cohort_size: int) -> None:
        """Moves one parameter in place.

        Args:
            name: of the parameter.
            param: float array, any shape.
            sums: exact sums of weighted deltas, of all accumulators.
            factor: `aggregation.mean_factor`.
            cohort_size: users that took part.

        Raises:
            BadInput: the new value is not finite; the parameter is left half-way.
        """
        if self.keeps_untouched and not self.slots and param.ndim > 1:
            touched = np.logical_or.reduce([s.touched[name] for s in sums])
            if not touched.all():
                for rows in row_blocks(np.flatnonzero(touched), math.prod(param.shape[1:])):
                    some = param[rows]
                    totals = [_gather(s, name, rows) for s in sums]
                    self._apply_flat(name, some.reshape(-1), totals, factor, cohort_size)
                    param[rows] = some
                return
        totals = [s.settle(name).reshape(-1) for s in sums]
        self._apply_flat(name, param.reshape(-1), totals, factor, cohort_size)

    def _apply_flat(self, name: str, flat: Array, totals: Sequence[Int64], factor: float, cohort_size: int) -> None:
        state = self._slots_of(name, flat.size)
        room = np.empty(BLOCK, np.int64)
        for start in range(0, flat.size, BLOCK):
            part = slice(start, start + BLOCK)
            total = totals[0][part]
            for other in totals[1:]:
                total = np.add(total, other[part], out=room[: total.size])
            here = {slot: values[part] for slot, values in state.items()}
            x: Float64 = flat[part].astype(np.float64)
            mean: Float64 = total.astype(np.float64)
            mean *= factor
            new = self.step(x, mean, here, cohort_size)
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is refused
                rounded = new.astype(flat.dtype)
            if not np.isfinite(rounded).all():
                raise BadInput(f"the server step made parameter {name!r} NaN or infinite; lower --server-lr")
            # Without -0.0, which a row that nobody touched would keep and another not.
            np.add(rounded, 0.0, out=flat[part])

    def state_dict(self) -> Tensors:
        """The state as "parameter/slot" -> float64 array, flat."""
        return {f"{name}/{slot}": value for name, held in self._state.items() for slot, value in held.items()}

    def load_state_dict(self, state: Tensors) -> None:
        """Takes back what `state_dict` gave."""
        self._state = {}
        for key, value in state.items():
            name, slot = key.rsplit("/", 1)
            self._state.setdefault(name, {})[slot] = value.astype(np.float64)

    def _slots_of(self, name: str, size: int) -> dict[str, Float64]:
        if name not in self._state:
            self._state[name] = {slot: np.full(size, self.initial_slot(slot)) for slot in self.slots}
        return self._state[name]


@SERVER_OPTIMIZERS.register("fedavg")
class FedAvg(ServerOptimizer):
    """x <- x + lr d."""

    name: ClassVar[str] = "fedavg"
    keeps_untouched: ClassVar[bool] = True

    def __init__(self, learning_rate: float = 1.0) -> None:
        super().__init__(learning_rate)

    def step(self, x: Float64, mean: Float64, state: dict[str, Float64], cohort_size: int) -> Float64:  # noqa: D102
        mean *= self.learning_rate
        x += mean
        return x


@SERVER_OPTIMIZERS.register("sum")
class Sum(ServerOptimizer):
    """x <- x + lr times the plain sum of the users' deltas, each counted once."""

    name: ClassVar[str] = "sum"
    keeps_untouched: ClassVar[bool] = True
    weighted: ClassVar[bool] = False

    def __init__(self, learning_rate: float = 1.0) -> None:
        super().__init__(learning_rate)

    def step(self, x: Float64, mean: Float64, state: dict[str, Float64], cohort_size: int) -> Float64:  # noqa: D102
        return x + self.learning_rate * (mean * cohort_size)


@SERVER_OPTIMIZERS.register("fedavgm")
class FedAvgM(ServerOptimizer):
    """FedAvg with server momentum."""

    name: ClassVar[str] = "fedavgm"
    slots: ClassVar[tuple[str, ...]] = ("momentum",)

    def __init__(self, learning_rate: float = 1.0, momentum: float = 0.9) -> None:
        super().__init__(learning_rate)
        self.momentum = momentum

    def step(self, x: Float64, mean: Float64, state: dict[str, Float64], cohort_size: int) -> Float64:  # noqa: D102
        m = state["momentum"]
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

    def step(self, x: Float64, mean: Float64, state: dict[str, Float64], cohort_size: int) -> Float64:
        m, v = state["m"], state["v"]
        m *= self.beta1
        m += (1 - self.beta1) * mean
        self._second(v, mean * mean)
        return x + self.learning_rate * m / (np.sqrt(v) + self.tau)


@SERVER_OPTIMIZERS.register("fedadagrad")
class FedAdagrad(_Adaptive):
    """v <- v + d^2."""

    name: ClassVar[str] = "fedadagrad"

    def __init__(self, learning_rate: float = 0.1, beta1: float = 0.0, tau: float = 1e-3) -> None:
        super().__init__(learning_rate, beta1, 0.0, tau)

    def _second(self, v: Float64, square: Float64) -> None:
        v += square


@SERVER_OPTIMIZERS.register("fedadam")
class FedAdam(_Adaptive):
    """v <- b2 v + (1 - b2) d^2."""

    name: ClassVar[str] = "fedadam"

    def __init__(self, learning_rate: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> None:
        super().__init__(learning_rate, beta1, beta2, tau)

    def _second(self, v: Float64, square: Float64) -> None:
        v *= self.beta2
        v += (1 - self.beta2) * square


@SERVER_OPTIMIZERS.register("fedyogi")
class FedYogi(_Adaptive):
    """v <- v - (1 - b2) d^2 sign(v - d^2)."""

    name: ClassVar[str] = "fedyogi"

    def __init__(self, learning_rate: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> None:
        super().__init__(learning_rate, beta1, beta2, tau)

    def _second(self, v: Float64, square: Float64) -> None:
        v -= (1 - self.beta2) * square * np.sign(v - square)


def _gather(sums: Sums, name: str, rows: npt.NDArray[np.intp]) -> Int64:
    """Rows of a sum, with zeros where nobody added, flat."""
    found = sums.totals[name][rows]
    found[~sums.touched[name][rows]] = 0
    return found.reshape(-1)
