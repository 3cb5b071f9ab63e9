"""The model of the rows task: it says what each example gives by itself."""

import paddle
from linear_model import LinearModel


class RowsModel(LinearModel):
    """Softmax regression, whose examples do not depend on each other."""

    examples_are_independent = True

    def example_metrics(self, batch):
        logits = self.out(batch["x"])
        loss = paddle.nn.functional.cross_entropy(logits, batch["y"], reduction="none")
        return {"loss": (loss, 1), "top1": ((logits.argmax(1) == batch["y"]).astype("int64"), 1.0)}


class LargeRowsModel(RowsModel):
    """The same with a parameter above 64 KiB, which is not used."""

    def __init__(self, features, classes):
        super().__init__(features, classes)
        self.unused = paddle.nn.Linear(200, 100)
