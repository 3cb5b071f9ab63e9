"""The local optimizer: SGD with clipping by global norm, in as few passes over the parameters as it takes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import paddle

# Above this many elements Paddle's fused update is faster than NumPy's two calls.
_LARGE = 16_384


class LocalSGD:
    """p <- p - lr * min(1, max_grad_norm / |g|) * g, with |g| over all gradients.

    The factor of the clipping goes into the learning rate, where Paddle's own
    clipping rewrites every gradient first; small parameters are updated through views
    of their memory, without the cost of launching an operator.  CPU only.

    Args:
        model: whose parameters are trained; one without a gradient is left alone.
        lr: learning rate.
        max_grad_norm: None for no clipping.
    """

    def __init__(self, model: paddle.nn.Layer, lr: float, max_grad_norm: float | None) -> None:
        import paddle

        self._model, self._lr, self._max = model, lr, max_grad_norm
        parameters = model.parameters()
        large = [p for p in parameters if math.prod(p.shape) > _LARGE]
        self._small = [(p, np.from_dlpack(p.detach())) for p in parameters if math.prod(p.shape) <= _LARGE]
        self._memory = [p.data_ptr() for p, _ in self._small]
        self._large = large
        ours = {id(p) for p in parameters}
        layers = model.sublayers(include_self=True)
        registries = [layer._parameters for layer in layers]
        self._places = [(there, key, p) for there in registries for key, p in there.items() if id(p) in ours]
        self._sgd = paddle.optimizer.SGD(lr, parameters=large) if large else None

    def is_for(self, model: paddle.nn.Layer, lr: float, max_grad_norm: float | None) -> bool:
        """Whether it was made with these arguments, and the parameters still lie where they did."""
        if self._model is not model or (self._lr, self._max) != (lr, max_grad_norm):
            return False
        # As `model.parameters()`, which takes many times as long.
        same = all(there.get(key) is p for there, key, p in self._places)
        return same and self._memory == [p.data_ptr() for p, _ in self._small]

    def step(self) -> None:
        """Updates the parameters with their gradients."""
        # A copy of a small gradient costs less than a view of it.
        small = [
            (value, grad.numpy() if not grad.is_selected_rows() else dense(p, grad))
            for p, value in self._small
            if (grad := p.grad) is not None
        ]
        rate = self._lr
        if self._max is not None:
            total = sum([square(grad) for _, grad in small])
            if self._large:
                total += sum(square(_rows(grad)[1]) for p in self._large if (grad := p.grad) is not None)
            norm = math.sqrt(total)
            # Not `norm > max`: a NaN must reach the parameters, where it is found and named.
            if not norm <= self._max:
                rate *= self._max / norm
        step = np.float32(rate)
        for value, grad in small:
            np.subtract(value, step * grad, out=value)
        # Without a gradient there is no step to make.
        if self._sgd is not None and any(p.grad is not None for p in self._large):
            self._sgd.set_lr(rate)
            self._sgd.step()

    def clear_grad(self) -> None:
        """Forgets the gradients."""
        for p, _ in self._small:
            p.clear_gradient(False)
        if self._sgd is not None:
            self._sgd.clear_grad(set_to_zero=False)


def square(values: npt.NDArray[Any]) -> float:
    """The sum of squares."""
    flat = values.reshape(-1)
    return float(flat.dot(flat))


def dense(parameter: paddle.Tensor, grad: paddle.Tensor) -> npt.NDArray[Any]:
    """A gradient as an array of the parameter's shape."""
    rows, values = _rows(grad)
    if rows is None:
        return values
    dense = np.zeros(parameter.shape, values.dtype)
    dense[rows] = values
    return dense


def _rows(grad: paddle.Tensor) -> tuple[npt.NDArray[Any] | None, npt.NDArray[Any]]:
    """Rows and values of a sparse gradient, a row that occurs twice added up; (None, values) of a dense one."""
    if not grad.is_selected_rows():
        return None, np.from_dlpack(grad.detach())
    values = np.asarray(grad.get_selected_rows().get_tensor())
    rows, place = np.unique(np.asarray(grad.rows()), return_inverse=True)
    merged = np.zeros((len(rows), *values.shape[1:]), values.dtype)
    np.add.at(merged, place.reshape(-1), values)
    return rows, merged
