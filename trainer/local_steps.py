"""The local optimizer for any rule: gradients are clipped by global norm, then the rule moves each parameter."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from scheduler.rules.local_optimizers import STEPS, LocalRule, RuleState
from trainer.local_sgd import dense, square

if TYPE_CHECKING:
    import paddle

# Elements that a rule is given at once: its passes over them find them in the cache.
_BLOCK = 16_384


class LocalSteps:
    """Steps by a rule, with g times min(1, max_grad_norm / |g|), |g| over all gradients, in the place of g.

    A parameter without a gradient is left alone, by weight decay too.  Sparse gradients are made dense.  CPU only.

    Args:
        model: whose parameters are trained.
        rule: how.
        lr: learning rate.
        max_grad_norm: None for no clipping.
        state: what the rule remembers; updated in place.
    """

    def __init__(
        self, model: paddle.nn.Layer, rule: LocalRule, lr: float, max_grad_norm: float | None, state: RuleState
    ) -> None:
        self._rule, self._lr, self._max = rule, lr, max_grad_norm
        self._arrays, self._parameters = state.arrays, list(model.named_parameters())
        state.asked = True

    def step(self) -> None:
        """Updates the parameters with their gradients."""
        found = [(name, p, dense(p, grad)) for name, p in self._parameters if (grad := p.grad) is not None]
        factor = 1.0
        if self._max is not None and found:
            norm = math.sqrt(sum(square(gradient) for _, _, gradient in found))
            # Not `norm > max`: a NaN must reach the parameters, where it is found and named.
            if not norm <= self._max:
                factor = self._max / norm
        for name, parameter, gradient in found:
            self._move(name, np.from_dlpack(parameter.detach()), gradient, factor)

    def clear_grad(self) -> None:
        """Forgets the gradients."""
        for _, p in self._parameters:
            p.clear_gradient(False)

    def _move(self, name: str, value: npt.NDArray[Any], gradient: npt.NDArray[Any], factor: float) -> None:
        """One parameter, in place and block by block."""
        slots = {slot: self._of(name, slot, value.shape, value.dtype).reshape(-1) for slot in self._rule.slots}
        count = self._of(name, STEPS, (1,), np.dtype(np.int64))
        count += 1
        flat = value.reshape(-1)
        for begin in range(0, flat.size, _BLOCK):
            part = slice(begin, begin + _BLOCK)
            # A copy: the rule may overwrite it.
            block = gradient.reshape(-1)[part] * value.dtype.type(factor)
            self._rule.step(flat[part], block, {s: each[part] for s, each in slots.items()}, self._lr, int(count[0]))
        if not np.shares_memory(flat, value):
            value[...] = flat.reshape(value.shape)

    def _of(self, name: str, slot: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        key = f"{name}/{slot}"
        if key not in self._arrays:
            self._arrays[key] = np.zeros(shape, dtype)
        return self._arrays[key]
