"""A model most of which each user keeps: more than one message may hold."""

import paddle

from model import ModelBase

PRIVATE = 17_500_000  # float32: 70 MB


class LargeModel(ModelBase):
    """A number of its own and a share of the common one."""

    private = ("memory",)

    def __init__(self):
        super().__init__()
        zeros = paddle.nn.initializer.Constant(0.0)
        self.memory = self.create_parameter([PRIVATE], default_initializer=zeros)
        self.common = self.create_parameter([1], default_initializer=zeros)

    def loss(self, batch):
        rows = batch["x"].mean(1)
        miss = rows - self.common - self.memory[-1]
        loss = (miss * miss).mean() + self.memory.mean()
        return loss, {"loss": (loss * len(rows), len(rows))}
