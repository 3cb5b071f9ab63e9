"""The tiny task's model, in a module of its own so that only shards import Paddle."""

import paddle

from model import ModelBase


class TinyModel(ModelBase):
    """One hidden layer with batch norm (buffers!) and a softmax."""

    def __init__(self, features, classes):
        super().__init__()
        self.hidden = paddle.nn.Linear(features, 5)
        self.norm = paddle.nn.BatchNorm1D(5)
        self.out = paddle.nn.Linear(5, classes)

    def loss(self, batch):
        hidden = paddle.tanh(self.norm(self.hidden(batch["x"])))
        logits = self.out(hidden)
        loss = paddle.nn.functional.cross_entropy(logits, batch["y"])
        hits = (logits.argmax(1) == batch["y"]).sum()
        count = len(batch["y"])
        return loss, {"loss": (loss * count, count), "top1": (hits, count)}
