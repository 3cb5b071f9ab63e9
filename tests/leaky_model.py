"""A model whose forward pass changes what it can: buffers by assignment and in place, small and large."""

import paddle

from model import ModelBase

LARGE = 20_000  # elements: more than a model compares after every user


class LeakyModel(ModelBase):
    """Softmax regression on inputs from which what was seen before is taken away."""

    def __init__(self, features, classes):
        super().__init__()
        self.norm = paddle.nn.BatchNorm1D(features)
        self.out = paddle.nn.Linear(features, classes)
        self.large = self.create_parameter([LARGE])
        self.register_buffer("seen", paddle.zeros([features]))
        self.register_buffer("trace", paddle.zeros([LARGE]))
        self.register_buffer("calls", paddle.zeros([1], "int64"))

    def loss(self, batch):
        x = batch["x"]
        with paddle.no_grad():
            self.seen = 0.9 * self.seen + 0.1 * x.mean(0)
            self.trace.add_(paddle.full([LARGE], float(len(x))))
            self.calls += 1
        shift = self.seen + self.trace[:1] / 50 + self.calls.astype("float32") / 10
        logits = self.out(self.norm(x) - 0.3 * shift) + self.large[:3]
        loss = paddle.nn.functional.cross_entropy(logits, batch["y"])
        hits = (logits.argmax(1) == batch["y"]).sum()
        count = len(batch["y"])
        return loss, {"loss": (loss * count, count), "top1": (hits, count)}
