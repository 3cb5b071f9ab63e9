"""Gradients of a parameter as an array that may be written to."""

from __future__ import annotations

from typing import Any

import numpy as np

from protos.codec import Array


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
