"""Gradients of parameters as arrays that may be written to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from protos.codec import Array

if TYPE_CHECKING:
    from simulator.worker.model_state import ModelState


def writable_gradient(parameter: Any) -> Array:
    """The gradient of a Paddle parameter, in its own memory; one that is sparse or missing is made dense first.

    Args:
        parameter: a tensor that takes gradients.
    """
    import paddle

    grad = parameter.grad
    if grad is None or grad.is_selected_rows():
        dense = np.zeros(parameter.shape, np.from_dlpack(parameter.detach()).dtype)
        if grad is not None:
            rows, values = np.asarray(grad.rows()), np.asarray(grad.get_selected_rows().get_tensor())
            np.add.at(dense, rows, values)
            parameter._set_grad_type(paddle.base.core.VarDesc.VarType.DENSE_TENSOR)
        parameter.grad = paddle.to_tensor(dense)
    view: Array = np.from_dlpack(parameter.grad.detach())
    return view


class Gradients(Mapping[str, Array]):
    """Gradients where they are now: a pass back may put others in their places.  Arrays are written to, not this."""

    def __init__(self, model: ModelState, names: Sequence[str]) -> None:
        self._model, self._names = model, names

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        return self._model.gradient(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
