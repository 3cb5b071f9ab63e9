"""Softmax cross entropy of a large output layer, with only as many passes over the logits as it takes.

Paddle's own path writes the logits, adds the bias in a second pass, keeps logits and
softmax for the backward pass and needs another pass for the best guess.  Here the one
buffer of logits becomes the softmax and then the gradient, in place, on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle.autograd import PyLayer

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer[Any]]


@dataclass
class SoftmaxStatistics:
    """What a batch gave beside its gradient.

    Attributes:
        total: sum of factor x cross entropy over rows, float64.
        guesses: int (K,), the most likely class of each row.
    """

    total: float
    guesses: Ints


def view(tensor: paddle.Tensor) -> npt.NDArray[Any]:
    """A CPU tensor's memory as an array, not copied."""
    return np.from_dlpack(tensor.detach())


def softmax_loss(
    hidden: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor, target: Ints, factor: Floats
) -> tuple[paddle.Tensor, SoftmaxStatistics]:
    """Sum over rows of factor x cross entropy of softmax(hidden @ weight + bias).

    Args:
        hidden: float32 (K, H).
        weight: float32 (H, V).
        bias: float32 (V,).
        target: (K,), the true class of each row.
        factor: (K,), what each row counts.

    Returns:
        The scalar loss, which can be differentiated unless gradients are off, and its statistics.
    """
    if paddle.is_grad_enabled():
        box: list[SoftmaxStatistics] = []
        return _SoftmaxLoss.apply(hidden, weight, bias, target, factor, box), box[0]
    _, statistics = _forward(hidden, weight, bias, target, factor, gradient=False)
    return paddle.to_tensor(statistics.total, dtype="float32"), statistics


class _SoftmaxLoss(PyLayer):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: paddle.Tensor,
        weight: paddle.Tensor,
        bias: paddle.Tensor,
        target: Ints,
        factor: Floats,
        box: list[SoftmaxStatistics],
    ) -> paddle.Tensor:
        ctx.error, statistics = _forward(hidden, weight, bias, target, factor, gradient=True)
        ctx.save_for_backward(hidden, weight)
        # Paddle takes no gradient for what does not train, as when a part of the model is held fixed.
        ctx.trains = [not each.stop_gradient for each in (hidden, weight, bias)]
        box.append(statistics)
        return paddle.to_tensor(statistics.total, dtype="float32")

    @staticmethod
    def backward(ctx: Any, upstream: paddle.Tensor) -> tuple[paddle.Tensor | None, ...]:
        hidden, weight = ctx.saved_tensor()
        of_hidden, of_weight, of_bias = ctx.trains
        error = ctx.error
        scale = float(upstream)
        if scale != 1.0:
            error.scale_(scale)
        # ones @ error: a sum over rows that goes through the matrix once
        bias_grad = paddle.to_tensor(np.ones(error.shape[0], np.float32) @ view(error)) if of_bias else None
        hidden_grad = paddle.matmul(error, weight, transpose_y=True) if of_hidden else None
        weight_grad = paddle.matmul(hidden, error, transpose_x=True) if of_weight else None
        return hidden_grad, weight_grad, bias_grad


def _forward(
    hidden: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor, target: Ints, factor: Floats, *, gradient: bool
) -> tuple[paddle.Tensor, SoftmaxStatistics]:
    """The logits' buffer, holding d(loss)/d(logits) if asked, and the statistics."""
    buffer = paddle.matmul(hidden, weight)
    z = view(buffer)  # (K, V)
    z += view(bias)
    entropy, guesses, norm = _entropy(z, target)
    total = float(np.dot(entropy.astype(np.float64), factor.astype(np.float64)))
    if gradient:
        z *= (factor / norm)[:, None]
        z[np.arange(len(target)), target] -= factor
    return buffer, SoftmaxStatistics(total, guesses)


def _entropy(z: Floats, target: Ints) -> tuple[Floats, Ints, Floats]:
    """Of logits (K, V), which become the softmax times its norm: cross entropy, best guesses and norm, (K,) each."""
    rows = np.arange(len(target))
    guesses = z.argmax(axis=1)
    highest = z[rows, guesses]
    chosen = z[rows, target] - highest
    z -= highest[:, None]
    np.exp(z, out=z)
    norm = z.sum(axis=1)
    return np.log(norm) - chosen, guesses, norm


# Rows of logits at a time: the product is as fast as with more, and its result still lies in the cache.
_BLOCK_ROWS = 64


def row_entropies(
    hidden: paddle.Tensor, weight: paddle.Tensor, biases: Sequence[Floats], target: Ints, bias_of: Ints | None = None
) -> tuple[Floats, Ints]:
    """Cross entropy and best guess of each row of softmax(hidden @ weight + bias), without gradients.

    Memory does not grow with the rows, but for what is returned.

    Args:
        hidden: float32 (K, H).
        weight: float32 (H, V).
        biases: float32 (V,) each; one, or more with `bias_of`.
        target: (K,), the true class of each row.
        bias_of: (K,), which of them a row has.

    Returns:
        float32 (K,) and int (K,).
    """
    entropies, guesses = np.empty(len(target), np.float32), np.empty(len(target), np.int64)
    for start in range(0, len(target), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        buffer = paddle.matmul(hidden[block], weight)
        z = view(buffer)
        if bias_of is None:
            z += biases[0]
        else:
            for row, which in zip(z, bias_of[block], strict=True):
                row += biases[which]
        entropies[block], guesses[block], _ = _entropy(z, target[block])
    return entropies, guesses
