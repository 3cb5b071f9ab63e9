"""LSTM layers over a sequence, of which the last output goes on: for `Classifier`."""

from __future__ import annotations

from math import sqrt

import numpy as np
import paddle
from paddle import nn


class LastStep(nn.Layer):
    """Stacked LSTM layers from a zero state; gives the output at the last place of each sequence, (n, hidden_size).

    Weights begin as in TensorFlow's BasicLSTMCell, which LEAF's models are made of: those of a layer uniform within
    sqrt(6 / (inputs + 5 hidden)), since input and state are one matrix there; biases 0, but 1 for the forget gate.

    Args:
        input_size: of each place of a sequence.
        hidden_size: of each layer.
        num_layers: one on top of another.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 2) -> None:
        super().__init__()
        sizes = [input_size, *[hidden_size] * (num_layers - 1)]
        self.lstms = nn.LayerList([_lstm(size, hidden_size) for size in sizes])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """From float (n, T, input_size)."""
        for lstm in self.lstms:
            x, _ = lstm(x)
        return x[:, -1]


def _lstm(inputs: int, hidden: int) -> nn.LSTM:
    within = sqrt(6 / (inputs + 5 * hidden))
    weight = paddle.ParamAttr(initializer=nn.initializer.Uniform(-within, within))
    # Of Paddle's gates input, forget, cell and output.
    forget = np.repeat(np.array([0, 1, 0, 0], np.float32), hidden)
    return nn.LSTM(
        inputs,
        hidden,
        weight_ih_attr=weight,
        weight_hh_attr=weight,
        bias_ih_attr=paddle.ParamAttr(initializer=nn.initializer.Assign(forget)),
        bias_hh_attr=paddle.ParamAttr(initializer=nn.initializer.Constant(0.0)),
    )
