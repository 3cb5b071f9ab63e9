"""The model of the rows task: it says what each example gives by itself."""

import paddle

from model import ModelBase


class RowsModel(ModelBase):
    """Softmax regression, whose examples do not depend on each other."""

    examples_are_independent = True

    def __init__(self, features, classes):
        super().__init__()
        self.out = paddle.nn.Linear(features, classes)

    def loss(self, batch):
        metrics = {name: (sums.sum(), len(batch["y"])) for name, (sums, _) in self.example_metrics(batch).items()}
        return metrics["loss"][0] / len(batch["y"]), metrics

    def example_metrics(self, batch):
        logits = self.out(batch["x"])
        loss = paddle.nn.functional.cross_entropy(logits, batch["y"], reduction="none")
        return {"loss": (loss, 1), "top1": ((logits.argmax(1) == batch["y"]).astype("int64"), 1.0)}


class LargeRowsModel(RowsModel):
    """The same with a parameter above 64 KiB, which is not used."""

    def __init__(self, features, classes):
        super().__init__(features, classes)
        self.unused = paddle.nn.Linear(200, 100)
