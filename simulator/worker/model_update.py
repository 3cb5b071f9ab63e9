"""What a user sends of the model: its parameters after training minus those before, made only where it must be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from protos.codec import Array, Tensors
from protos.errors import BadInput
from scheduler.rules.exact_sum import BLOCK, ExactSum

if TYPE_CHECKING:
    from simulator.worker.model_state import ModelState

Rows = Mapping[str, npt.NDArray[Any]]


class ModelUpdate:
    """See `scheduler.rules.algorithm.Update`.

    Summing takes the difference block by block and scales it on the way, so an update that is
    only scaled is never made as a whole.

    Args:
        model: a `ModelState` after training.
        shared: the shared parameters as the round began.
        uid: for errors.
    """

    def __init__(self, model: ModelState, shared: Mapping[str, Array], uid: str) -> None:
        self._model, self._shared, self._uid = model, shared, uid
        self._factor = 1.0
        self._made: Tensors | None = None

    def norm(self) -> float:
        """Euclidean norm over all parameters that have gradients, summed in float64."""
        square = 0.0
        for name in self._model.trained:
            made = None if self._made is None else self._made[name].reshape(-1)
            new = self._model.read(name).reshape(-1) if made is None else made
            old = self._shared[name].reshape(-1)
            for start in range(0, new.size, BLOCK):
                part = slice(start, start + BLOCK)
                block = new[part].astype(np.float64)
                if made is None:
                    block -= old[part]
                square += float(np.dot(block, block))
        return math.sqrt(square) * abs(self._factor)

    def scale(self, factor: float) -> None:
        """Multiplies what has gradients by a finite number; buffers, which no rule scales back, stay as they are.

        Raises:
            BadInput: it is not finite.
        """
        if not math.isfinite(factor):
            raise BadInput(
                f"uid {self._uid!r}: its update is scaled by {factor}: its local training diverged; lower --lr"
            )
        self._factor *= factor

    def arrays(self) -> Tensors:
        """By name, float32 or wider; from now on they are what is sent."""
        if self._made is None:
            self._made = {}
            for name, before in self._shared.items():
                now = self._model.read(name)
                self._made[name] = np.subtract(now, before, dtype=np.promote_types(now.dtype, np.float32))
        if self._factor != 1.0:
            for name in self._model.trained:
                self._made[name] *= self._factor
            self._factor = 1.0
        return self._made

    def add_to(self, exact: ExactSum, weight: float, rows: Rows) -> None:
        """Adds it to the sums; the model then holds the round's parameters again.

        Args:
            exact: of this share.
            weight: of the user.
            rows: of parameters, outside of which training has changed nothing.

        Raises:
            BadInput: see `ExactSum.take`.
        """
        if self._made is None:
            trained = frozenset(self._model.trained)
            for name, before in self._shared.items():
                factor = self._factor if name in trained else 1.0
                exact.take(name, self._model.read(name), before, weight * factor, self._uid, rows.get(name))
            return
        for name, value in self.arrays().items():
            exact.add(name, value, weight, self._uid)
        self._model.put_back(self._shared)
        self._model.load(self._shared)
