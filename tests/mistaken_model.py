"""A linear model whose `loss` gives what it must not, by name."""

import paddle

from model import ModelBase

ANSWERS = {
    "a scalar loss": lambda loss, metrics: loss,
    "a loss of rows": lambda loss, metrics: (loss * paddle.ones([2]), metrics),
    "a number": lambda loss, metrics: (loss.item(), metrics),
    "three things": lambda loss, metrics: (loss, metrics, None),
    "metrics that are none": lambda loss, metrics: (loss, loss),
    "metrics without counts": lambda loss, metrics: (loss, {"loss": loss}),
    "metrics of text": lambda loss, metrics: (loss, {"loss": ("a", 1)}),
    "nothing": lambda loss, metrics: None,
}


class MistakenModel(ModelBase):
    def __init__(self, mistake):
        super().__init__()
        self.out = paddle.nn.Linear(2, 2)
        self.answer = ANSWERS.get(mistake, lambda loss, metrics: (loss, metrics))

    def loss(self, batch):
        loss = paddle.nn.functional.cross_entropy(self.out(batch["x"]), batch["y"])
        return self.answer(loss, {"loss": (loss * len(batch["y"]), len(batch["y"]))})
