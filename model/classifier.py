"""A stack of layers with a softmax on top, which is most models of the field; dense ones learn without operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle import nn

from model.dense_stack import DenseStack
from model.last_step import LastStep
from model.model_base import Learner, ModelBase
from model.softmax_loss import view

_ROW_BY_ROW = (
    nn.Linear, nn.Embedding, LastStep, nn.Flatten, nn.Dropout, nn.Dropout2D, nn.LayerNorm, nn.GroupNorm,
    nn.Conv1D, nn.Conv2D, nn.MaxPool1D, nn.MaxPool2D, nn.AvgPool1D, nn.AvgPool2D,
    nn.AdaptiveAvgPool1D, nn.AdaptiveAvgPool2D, nn.AdaptiveMaxPool1D, nn.AdaptiveMaxPool2D,
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.Silu,
)  # fmt: skip
_NORMS = (nn.BatchNorm1D, nn.BatchNorm2D)


def _classes(y: paddle.Tensor) -> paddle.Tensor:
    """The class of each row, int64: Paddle compares integers of one type alone.

    Raises:
        ValueError: one is negative, which Paddle would leave out of the mean.
    """
    target = y.flatten().astype("int64")
    lowest = int(view(target).min())
    if lowest < 0:
        raise ValueError(f"y holds the class {lowest}: classes begin at 0")
    return target


def _takes_rows(layer: nn.Layer) -> bool:
    """Whether a layer that tests is known to make of each row what it makes of it alone."""
    if type(layer) is nn.Sequential:
        return all(map(_takes_rows, layer))
    # False has it take the mean of the batch even then.
    return type(layer) in _ROW_BY_ROW or (type(layer) in _NORMS and layer._use_global_stats is not False)


class Classifier(ModelBase):
    """Tells classes apart: `Classifier(Linear(60, 10))` is logistic regression.

    A batch has "x", rows of any shape and type that the first layer takes, and "y", the class of each row, an integer.
    The loss is the mean cross entropy; metrics are "loss" and "top1".

    Where all layers are `Linear`, `ReLU`, `Tanh`, `Sigmoid` and `Flatten` of Paddle, training computes its
    gradients in NumPy: for small models that takes a fifth of the time.  They are those of Paddle's operators
    but for the rounding.

    Args:
        layers: each takes what the one before gives; the last gives a row of logits for each example.
    """

    def __init__(self, *layers: paddle.nn.Layer) -> None:
        super().__init__()
        self.layers = paddle.nn.Sequential(*layers)
        self._stack = DenseStack.of(layers)
        # All layers are known to take each example for itself when they test.
        self.examples_are_independent = type(self).forward is Classifier.forward and all(map(_takes_rows, layers))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Logits (n, classes)."""
        return self.layers(x)

    def loss(self, batch: Mapping[str, paddle.Tensor]) -> tuple[paddle.Tensor, dict[str, tuple[Any, Any]]]:
        """Mean cross entropy; see `ModelBase.loss`."""
        target, logits = _classes(batch["y"]), self(batch["x"])
        loss = paddle.nn.functional.cross_entropy(logits, target)
        # In NumPy: a few numbers are not worth launching operators.
        right = view(logits).argmax(axis=1) == view(target)
        n = len(right)
        return loss, {"loss": (float(loss) * n, n), "top1": (float(np.count_nonzero(right)), n)}

    def example_metrics(self, batch: Mapping[str, paddle.Tensor]) -> dict[str, tuple[Any, Any]]:
        """See `ModelBase.example_metrics`."""
        target, logits = _classes(batch["y"]), self(batch["x"])
        loss = paddle.nn.functional.cross_entropy(logits, target, reduction="none")
        return {"loss": (loss, 1), "top1": (logits.argmax(axis=1) == target, 1)}

    def learner(self, examples: Mapping[str, npt.NDArray[Any]]) -> Learner | None:
        """See `ModelBase.learner`."""
        plain = type(self).forward is Classifier.forward and type(self).loss is Classifier.loss
        return self._stack.learner(examples) if plain and self._stack is not None else None
