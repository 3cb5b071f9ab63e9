"""The messy task's model: its forward changes buffers, attributes and modes, and all of them count in the loss."""

import paddle

from model import ModelBase


class MessyModel(ModelBase):
    """A net with running values of every kind, one parameter above 64 KiB and one buffer that nobody averages."""

    def __init__(self, features, classes):
        super().__init__()
        self.hidden = paddle.nn.Linear(features, 3000)
        self.norm = paddle.nn.BatchNorm1D(3000)
        self.out = paddle.nn.Linear(3000, classes)
        self.register_buffer("seen", paddle.zeros([features]))
        self.register_buffer("batches", paddle.zeros([1], dtype="int64"))
        self.turns = 0

    def loss(self, batch):
        x = batch["x"]
        # The usual idiom puts another tensor in the place of the buffer.
        self.seen = 0.9 * self.seen + 0.1 * x.mean(0)
        self.batches = self.batches + 1
        self.turns += 1
        self.last = x.mean()  # makes a buffer that was not there
        shift = self.seen + 0.01 * self.batches.astype("float32") + 0.01 * self.turns
        logits = self.out(paddle.tanh(self.norm(self.hidden(x + shift))))
        loss = paddle.nn.functional.cross_entropy(logits, batch["y"])
        hits = (logits.argmax(1) == batch["y"]).sum()
        count = len(batch["y"])
        return loss, {"loss": (loss * count, count), "top1": (hits, count)}
