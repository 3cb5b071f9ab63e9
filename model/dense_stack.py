"""Softmax cross entropy of a stack of small dense layers and its gradients, in a few products of NumPy.

Paddle launches some ten operators a step, forth and back, each of which takes longer than the
arithmetic of a small layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from model.model_base import Learner
from model.softmax_loss import view

Floats = npt.NDArray[np.floating[Any]]
# In place, and times the derivative where the value is known.
Activation = tuple[Callable[[Floats], Any], Callable[[Floats, Floats], Any]]


def _relu(z: Floats) -> None:
    np.maximum(z, 0, out=z)


def _relu_back(error: Floats, value: Floats) -> None:
    error *= value > 0


def _tanh(z: Floats) -> None:
    np.tanh(z, out=z)


def _tanh_back(error: Floats, value: Floats) -> None:
    error *= 1 - value * value


def _sigmoid(z: Floats) -> None:
    # 1 / (1 + e^-z) without an overflow for large -z.
    z *= 0.5
    np.tanh(z, out=z)
    z += 1
    z *= 0.5


def _sigmoid_back(error: Floats, value: Floats) -> None:
    error *= value * (1 - value)


_set_grad = paddle.Tensor.grad.__set__
_ACTIVATIONS: Mapping[type, Activation] = {
    paddle.nn.ReLU: (_relu, _relu_back),
    paddle.nn.Tanh: (_tanh, _tanh_back),
    paddle.nn.Sigmoid: (_sigmoid, _sigmoid_back),
}


class _Parameter:
    """A parameter as an array, and where its gradient goes."""

    def __init__(self, tensor: paddle.Tensor) -> None:
        self.tensor = tensor
        self.value: Floats = view(tensor)
        self._memory = tensor.data_ptr()
        self._grad = paddle.zeros_like(tensor)
        self.grad: Floats = view(self._grad)

    def is_where_it_was(self) -> bool:
        return bool(self.tensor.data_ptr() == self._memory)

    @property
    def trains(self) -> bool:
        return not self.tensor.stop_gradient

    def give_gradient(self) -> None:
        """Has the tensor take a copy of `grad`: as `tensor.grad = ...`, which takes a detour of its class."""
        _set_grad(self.tensor, self._grad)


@dataclass
class _Dense:
    """A linear layer and the activation behind it."""

    layer: paddle.nn.Linear
    weight: _Parameter
    bias: _Parameter | None
    activation: Activation | None = None

    def holds(self) -> bool:
        """Whether the layer is as it was."""
        layer = self.layer
        if layer._forward_pre_hooks or layer._forward_post_hooks:
            return False
        weight = layer.weight is self.weight.tensor and self.weight.is_where_it_was()
        if self.bias is None:
            return weight and layer.bias is None
        return weight and layer.bias is self.bias.tensor and self.bias.is_where_it_was()


class DenseStack:
    """Linear layers with activations between them.

    Args:
        layers: the linear layers, each with the activation behind it.
        others: the other layers, which have no parameters.
    """

    def __init__(self, layers: Sequence[_Dense], others: Sequence[paddle.nn.Layer]) -> None:
        self._layers, self._others = list(layers), list(others)

    @classmethod
    def of(cls, layers: Sequence[paddle.nn.Layer]) -> DenseStack | None:
        """A stack of these layers; None if it takes others than there may be here."""
        dense: list[_Dense] = []
        for number, layer in enumerate(layers):
            kind = type(layer)
            if kind is paddle.nn.Linear and layer.weight.dtype in (paddle.float32, paddle.float64):
                bias = None if layer.bias is None else _Parameter(layer.bias)
                dense.append(_Dense(layer, _Parameter(layer.weight), bias))
            elif kind in _ACTIVATIONS and dense and dense[-1].activation is None:
                dense[-1].activation = _ACTIVATIONS[kind]
            elif kind is not paddle.nn.Flatten or number > 0:
                return None
        if not dense or dense[-1].activation is not None or len({id(each.layer) for each in dense}) < len(dense):
            return None
        return cls(dense, [layer for layer in layers if type(layer) is not paddle.nn.Linear])

    def learner(self, examples: Mapping[str, npt.NDArray[Any]]) -> Learner | None:
        """What learns from "x" and "y"; None where Paddle's operators have to: they say what is wrong."""
        hooked = any(other._forward_pre_hooks or other._forward_post_hooks for other in self._others)
        if hooked or not all(each.holds() for each in self._layers):
            return None
        x, y = examples.get("x"), examples.get("y")
        return self._learn if x is not None and y is not None and self._takes(x, y) else None

    def _takes(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> bool:
        weight, flattens = self._layers[0].weight.value, any(type(o) is paddle.nn.Flatten for o in self._others)
        classes = self._layers[-1].weight.value.shape[1]
        rows = x.dtype == weight.dtype and (flattens or x.ndim == 2) and x[0].size == len(weight)
        # Paddle leaves out rows of a class that is negative.
        return rows and y.dtype.kind in "iu" and y.size == len(x) and y.min() >= 0 and y.max() < classes

    def _learn(self, batch: Mapping[str, npt.NDArray[Any]]) -> dict[str, tuple[float, float]]:
        n = len(batch["x"])
        with np.errstate(all="ignore"):  # what diverges is found, and named, where it is summed
            values = self._values(batch["x"].reshape(n, -1))
            error, loss, hits = _softmax(values.pop(), batch["y"].reshape(n))
            self._give_gradients(values, error)
        return {"loss": (loss, n), "top1": (hits, n)}

    def _values(self, x: Floats) -> list[Floats]:
        """What goes into each layer (n, width), and the logits (n, classes)."""
        values = [x]
        for each in self._layers:
            x = x @ each.weight.value
            if each.bias is not None:
                x += each.bias.value
            if each.activation is not None:
                each.activation[0](x)
            values.append(x)
        return values

    def _give_gradients(self, values: list[Floats], error: Floats) -> None:
        """From the last layer to the first that trains; `error` is the loss's derivative by the logits."""
        first = next((i for i, each in enumerate(self._layers) if _trains(each)), len(self._layers))
        for i in range(len(self._layers) - 1, first - 1, -1):
            each, x = self._layers[i], values[i]
            if each.weight.trains:
                np.matmul(x.T, error, out=each.weight.grad)
                each.weight.give_gradient()
            if each.bias is not None and each.bias.trains:
                np.add.reduce(error, axis=0, out=each.bias.grad)
                each.bias.give_gradient()
            if i > first:
                error = error @ each.weight.value.T
                activation = self._layers[i - 1].activation
                if activation is not None:
                    activation[1](error, x)


def _trains(layer: _Dense) -> bool:
    return layer.weight.trains or (layer.bias is not None and layer.bias.trains)


def _softmax(z: Floats, target: npt.NDArray[np.integer[Any]]) -> tuple[Floats, float, float]:
    """The derivative of the mean cross entropy by logits z (n, classes), in z itself; its sum over rows, and hits."""
    n, classes = z.shape
    guesses = z.argmax(axis=1)
    starts = np.arange(0, z.size, classes)
    flat, place = z.reshape(-1), starts + target
    z -= flat[starts + guesses, None]
    chosen = flat[place]
    np.exp(z, out=z)
    norm = np.add.reduce(z, axis=1)
    loss = float(np.add.reduce(np.log(norm) - chosen))
    norm *= n
    z /= norm[:, None]
    flat[place] -= 1 / n
    return z, loss, float(np.count_nonzero(guesses == target))
