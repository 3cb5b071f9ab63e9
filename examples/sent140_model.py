"""LEAF's two models for Sent140 (models/sent140): stacked LSTM, and logistic regression on a bag of words."""

from __future__ import annotations

import paddle
from paddle import nn

from model import Classifier, LastStep


def lstm(words: int, hidden: int = 100, classes: int = 2) -> Classifier:
    """Embedding, two LSTM layers of as many units, 128 hidden (with nothing between them and the output).

    LEAF takes GloVe's words and not its vectors: the embedding is trained from its start, and so it is here.

    Args:
        words: indices of words.
        hidden: numbers for each word, and units of a layer.
        classes: of texts.
    """
    glorot = paddle.ParamAttr(initializer=nn.initializer.XavierUniform())
    return Classifier(
        nn.Embedding(words, hidden, sparse=True, weight_attr=glorot),
        LastStep(hidden, hidden, num_layers=2),
        nn.Linear(hidden, 128, weight_attr=glorot),
        nn.Linear(128, classes, weight_attr=glorot),
    )


def bag(words: int, classes: int = 2) -> Classifier:
    """Logistic regression on how often each word occurs."""
    return Classifier(WordSum(words, classes))


class WordSum(nn.Layer):
    """A bag of words: the sum of a row of numbers for each word of a text, and a bias; (n, outputs).

    A linear layer on counts of words, without their long rows of zeros.

    Args:
        words: indices; the last one stands for words that are not known and for none, and adds nothing.
        outputs: numbers for each word.
    """

    def __init__(self, words: int, outputs: int) -> None:
        super().__init__()
        # sparse: only the rows of words that occur get a gradient and an update
        normal = paddle.ParamAttr(initializer=nn.initializer.Normal())
        self.rows = nn.Embedding(words, outputs, padding_idx=words - 1, sparse=True, weight_attr=normal)
        self.bias = self.create_parameter([outputs], attr=normal, is_bias=True)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """From integer (n, length)."""
        return self.rows(x).sum(axis=1) + self.bias
