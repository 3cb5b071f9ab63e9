"""A stack of layers with a softmax on top, which is most models of the field; dense ones learn without operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import paddle

from model.dense_stack import DenseStack
from model.model_base import Learner, ModelBase


class Classifier(ModelBase):
    """Tells classes apart: `Classifier(Linear(60, 10))` is logistic regression.

    A batch has "x", float rows of any shape that the first layer takes, and "y", the class of each row, an integer.
    The loss is the mean cross entropy; metrics are "loss" and "top1".

    Where all layers are `Linear`, `ReLU`, `Tanh`, `Sigmoid` and `Flatten` of Paddle, training computes its
    gradients in NumPy: for small models that takes a fifth of the time.  They are those of Paddle's operators
    but for the rounding.

    Args:
        layers: each takes what the one before gives; the last gives a row of logits for each example.
    """

    def __init__(self, *layers: paddle.nn.Layer) -> None:
        super().__init__()
        self.layers = paddle.nn.LayerList(layers)
        self._stack = DenseStack.of(layers)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Logits (n, classes)."""
        for layer in self.layers:
            x = layer(x)
        return x

    def loss(self, batch: Mapping[str, paddle.Tensor]) -> tuple[paddle.Tensor, dict[str, tuple[Any, Any]]]:
        """Mean cross entropy; see `ModelBase.loss`."""
        target, logits = batch["y"].flatten(), self(batch["x"])
        loss = paddle.nn.functional.cross_entropy(logits, target)
        n = len(target)
        with paddle.no_grad():
            hits = (logits.argmax(axis=1) == target).astype("float32").sum()
        return loss, {"loss": (loss.detach() * n, n), "top1": (hits, n)}

    def learner(self, examples: Mapping[str, npt.NDArray[Any]]) -> Learner | None:
        """See `ModelBase.learner`."""
        plain = type(self).forward is Classifier.forward and type(self).loss is Classifier.loss
        return self._stack.learner(examples) if plain and self._stack is not None else None
